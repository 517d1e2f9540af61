"""`python -m conditional_detr` is `cdetr`."""

from conditional_detr.cli.app import main

if __name__ == "__main__":
    main()
