"""COCO's category names by id: what a model of 91 classes that names none was trained on."""

NOT_A_CATEGORY = "N/A"
COCO_LOGITS = 91  # one an id, 0 to 90; eleven of them stand for nothing


def names_of(num_classes: int) -> list[str] | None:
    """A name for each of the 91 logits, "N/A" in COCO's gaps; None for other numbers of classes."""
    if num_classes != COCO_LOGITS:
        return None
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    _, *names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]  # its first means background
    return [NOT_A_CATEGORY, *names]
