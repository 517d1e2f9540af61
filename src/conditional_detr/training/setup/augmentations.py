"""Rules for the augmentations: which flips leave the objects what they are."""

import re

from conditional_detr.errors import shortened_list
from conditional_detr.training.setup.choices import Choice
from conditional_detr.training.setup.invariance import EdgeProfiles, orientation_score

# Class names whose objects change their meaning when mirrored: characters and numbers, alone or in short codes, and sides.
CODE = re.compile(r"[^\W\d_]?\d+[^\W\d_]?|[^\W\d_]")
SIDE = re.compile(r"(?<![^\W_])(left|right)(?![^\W_])", re.IGNORECASE)
MANY_CODES = 0.5  # minimum fraction of the classes that must be such codes
TURNED = {"vflip": "when turned upside down", "transpose": "when rows and columns are swapped"}
UPRIGHT = 0.75  # from this accuracy of telling images from their turned copies, images have a fixed orientation


def flips(names: list[str]) -> Choice | None:
    """Switch off horizontal flips if the class names suggest that mirroring changes the class of an object; otherwise None."""
    sides = [name for name in names if SIDE.search(name)]
    codes = [name for name in names if CODE.fullmatch(name)]
    asymmetric = sides or (codes if len(codes) >= MANY_CODES * len(names) else [])
    if not asymmetric:
        return None
    return Choice("hflip", 0.0, f"mirroring would change {shortened_list(asymmetric)}, judging by the class names")


def turn(profiles: EdgeProfiles, setting: str) -> Choice | None:
    """Switch `vflip` or `transpose` on if turned images look like the original ones, else off.

    None if there are too few images or objects to decide.
    """
    sure = orientation_score(profiles, setting)
    if sure is None:
        return None
    turned = sure < UPRIGHT
    seen = f"images {'look alike' if turned else 'look different'} {TURNED[setting]}"
    limit = f"a classifier tells them apart in {sure:.0%} of the cases, {'below' if turned else 'not below'} the limit"
    return Choice(setting, 0.5 if turned else 0.0, f"{seen} ({limit} of {UPRIGHT:.0%})")
