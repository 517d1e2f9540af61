"""`cdetr info`."""


def info(source: str, /) -> None:
    """Tell what a model is: classes, size, parameters, FLOPs.

    Parameters
    ----------
    source
        Run folder, checkpoint folder, exported folder, Hugging Face folder, .pth, model name or Hub id.
    """
    from conditional_detr.inference.model_info import describe

    for name, value in describe(source).items():
        print(f"{name:<14} {value}")
