"""COCO category names by id, for models with 91 classes that do not store class names."""

NOT_A_CATEGORY = "N/A"
COCO_LOGITS = 91  # one per category id, 0 to 90; eleven of these ids are not used


def names_of(num_classes: int) -> list[str] | None:
    """Return a name for each of the 91 logits, with "N/A" for unused ids; None for any other number of classes."""
    if num_classes != COCO_LOGITS:
        return None
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    _, *names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]  # the first is the background class
    return [NOT_A_CATEGORY, *names]
