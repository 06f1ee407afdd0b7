"""Train torchvision's RetinaNet or FCOS on COCO, with a teacher or without one, by the schedule of FGD and ODAM-KD.

    torchrun --nproc-per-node 8 examples/distill_coco.py --coco COCO --detector retinanet --body resnet101 --out TEACHER
    torchrun --nproc-per-node 8 examples/distill_coco.py --coco COCO --detector retinanet --body resnet50
        --teacher resnet101@TEACHER/model.pt --loss odam_kd --out STUDENT

The folder gets model.pt and, every epoch, checkpoint.pt, from which the same command goes on. Without --coco: two steps of a
small FCOS on drawn scenes, with a random teacher. The functions at the top make the detectors for `whybox reproduce`.
"""

import argparse
import os
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler
from torchvision.models.detection import FCOS, RetinaNet, RetinaNet_ResNet50_FPN_Weights
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.transforms.functional import hflip, to_tensor

import whybox
from whybox.training.distillation import Distiller, inherit, make_loss

# Labels are COCO's own, up to 90; 0 is the background.
NAMES = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
KINDS = {"retinanet": RetinaNet, "fcos": FCOS}
LR, MOMENTUM, DECAY, WARMUP, CLIP = 0.01, 0.9, 1e-4, 500, 35


def retinanet_resnet50():
    return build("retinanet", "resnet50"), {"classes": NAMES}


def retinanet_resnet101():
    return build("retinanet", "resnet101"), {"classes": NAMES}


def retinanet_resnext101_64x4d():
    return build("retinanet", "resnext101_64x4d"), {"classes": NAMES}


def fcos_resnet50():
    return build("fcos", "resnet50"), {"classes": NAMES}


def fcos_resnet101():
    return build("fcos", "resnet101"), {"classes": NAMES}


def build(kind, body, weights=None, sides=(800,), longest=1333):
    """A detector with the pyramid of torchvision's own on another ResNet, whose normalization and first stages are frozen."""
    levels = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    backbone = resnet_fpn_backbone(backbone_name=body, weights=weights, trainable_layers=3, **levels)
    # FCOS would show only detections over .2, which costs recall.
    return KINDS[kind](backbone, len(NAMES), min_size=tuple(sides), max_size=longest, score_thresh=0.05)


class Pictures(Dataset):
    """Images (3,H,W), half of them flipped, with boxes and labels."""

    def __init__(self, data, labels):
        self.data, self.labels = data, torch.tensor(labels)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        sample = self.data[index]
        image, truth = to_tensor(sample.image.convert("RGB")), sample.truth[~sample.truth.ignore]
        boxes = truth.boxes
        if torch.rand(()) < 0.5:
            image = hflip(image)
            boxes = torch.stack([image.shape[2] - boxes[:, 2], boxes[:, 1], image.shape[2] - boxes[:, 0], boxes[:, 3]], 1)
        whole = (boxes[:, 2:] - boxes[:, :2] > 1).all(1)
        return image, {"boxes": boxes[whole], "labels": self.labels[truth.labels[whole]]}


class Taught(nn.Module):
    """A student's losses with those of its distiller; one module, so that the gradients of both are averaged over processes."""

    def __init__(self, student, distiller):
        super().__init__()
        self.student, self.distiller = student, distiller

    def forward(self, images, targets):
        if self.distiller is None:
            return self.student(images, targets)
        with self.distiller.watching() as seen:
            losses = self.student(images, targets)
        return {**losses, **seen.losses()}


def rate(options, epoch, step):
    """The learning rate: linear warm-up, then divided by 10 at each milestone."""
    warm = min(1, (step + 1) / WARMUP)
    return LR * options.batch / 16 * (0.001 + 0.999 * warm) * 0.1 ** sum(epoch >= milestone for milestone in options.milestones)


def train(options, data, labels, student, distiller):
    """Train for the epochs that are left."""
    # As torchrun sets them.
    processes = int(os.environ.get("WORLD_SIZE", 1))
    rank, place = (int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK"))
    device = torch.device("cuda", place) if torch.cuda.is_available() else torch.device("cpu")
    if distiller is not None:
        distiller.teacher.to(device)
    taught = own = Taught(student, distiller).to(device).train()
    if processes > 1:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        taught = DistributedDataParallel(taught, device_ids=[place] if device.type == "cuda" else None)
    weights = [weight for weight in taught.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, LR, MOMENTUM, weight_decay=DECAY)
    first, file = 0, options.out / "checkpoint.pt"
    if file.exists():
        kept = torch.load(file, map_location=device, weights_only=True)
        own.load_state_dict(kept["weights"])
        optimizer.load_state_dict(kept["optimizer"])
        first = kept["epoch"]
    pictures = Pictures(data, labels)
    sampler = DistributedSampler(pictures) if processes > 1 else RandomSampler(pictures)
    calls = {"num_workers": options.workers, "collate_fn": lambda rows: tuple(zip(*rows, strict=True)), "drop_last": True}
    batches = DataLoader(pictures, options.batch // processes, sampler=sampler, **calls)
    for epoch in range(first, options.epochs):
        if processes > 1:
            sampler.set_epoch(epoch)
        for number, (images, targets) in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = rate(options, epoch, epoch * len(batches) + number)
            targets = [{name: value.to(device) for name, value in target.items()} for target in targets]
            losses = taught([image.to(device) for image in images], targets)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            nn.utils.clip_grad_norm_(weights, CLIP)
            optimizer.step()
            if rank == 0 and number % 50 == 0:
                told = "  ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items())
                print(f"epoch {epoch + 1}, step {number + 1} of {len(batches)}: {told}", flush=True)
        if rank == 0:
            state = {"weights": own.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}
            torch.save(state, file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
            torch.save({name: value.cpu() for name, value in student.state_dict().items()}, options.out / "model.pt")
    if processes > 1:
        distributed.destroy_process_group()


def main():
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", help="folder with train2017/ and annotations/")
    parser.add_argument("--detector", choices=list(KINDS), default="fcos")
    parser.add_argument("--body", default="resnet50", help="a ResNet or ResNeXt of torchvision")
    parser.add_argument("--teacher", help="BODY@FILE: the same detector on this body with these weights")
    parser.add_argument("--loss", default="odam_kd", help="as whybox distill takes it")
    parser.add_argument("--out", type=Path, default=Path("distilled"))
    parser.add_argument("--sides", type=int, nargs="+", default=[800], help="the shorter side, one of these at random")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--milestones", type=int, nargs="*", default=[16, 22])
    parser.add_argument("--batch", type=int, default=16, help="images per step, over all processes")
    parser.add_argument("--workers", type=int, default=4, help="processes that read images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    # The same start in every process.
    torch.manual_seed(0)
    if options.coco:
        data = whybox.open_data(f"coco:{options.coco}:split=train2017")
        labels = [NAMES.index(name) for name in data.classes]
        student = build(options.detector, options.body, "IMAGENET1K_V1", options.sides)
        teacher = None
        if options.teacher:
            body, _, file = options.teacher.partition("@")
            teacher = build(options.detector, body)
            teacher.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    else:
        options.epochs, options.batch, options.workers = 1, 2, 0
        data = whybox.open_data("scenes:count=4:seed=0:variant=mixed")
        labels = list(range(1, 1 + len(data.classes)))
        student, teacher = (build("fcos", "resnet18", sides=[96], longest=128) for _ in range(2))
    distiller = None
    if teacher is not None:
        inherit(student, teacher)
        distiller = Distiller(teacher.eval(), student, make_loss(options.loss))
    # Images are flipped otherwise in every process.
    torch.manual_seed(1 + int(os.environ.get("RANK", 0)))
    train(options, data, labels, student, distiller)
    if os.environ.get("RANK", "0") == "0":
        print(f"wrote {options.out / 'model.pt'}")


if __name__ == "__main__":
    main()
