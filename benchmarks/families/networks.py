"""Networks of torchvision and timm, with random weights and nothing that is drawn at random."""

from __future__ import annotations

from typing import Any

SEED, CLASSES = 16, 10
#: torchvision's builders, with the size of an image and what else they are given.
TORCHVISION: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet18": (64, {}),
    "resnet50": (64, {}),
    "resnext50_32x4d": (64, {}),
    "wide_resnet50_2": (64, {}),
    "mobilenet_v2": (64, {}),
    "mobilenet_v3_small": (64, {}),
    "mobilenet_v3_large": (64, {}),
    "efficientnet_b0": (64, {}),
    "efficientnet_v2_s": (64, {}),
    "densenet121": (64, {}),
    "googlenet": (64, {"aux_logits": False, "init_weights": False}),
    "inception_v3": (96, {"aux_logits": False, "init_weights": False}),
    "shufflenet_v2_x0_5": (64, {}),
    "mnasnet0_5": (64, {}),
    "squeezenet1_1": (64, {}),
    "regnet_y_400mf": (64, {}),
    "regnet_x_400mf": (64, {}),
    "convnext_tiny": (64, {}),
    "vgg11_bn": (224, {}),
    "alexnet": (224, {}),
    "swin_t": (64, {}),
    "swin_v2_t": (64, {}),
    "maxvit_t": (224, {}),
}
#: Those of timm: the size of an image, 0 where the network is not told it, and what else they are given.
TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet26d": (64, {}),
    "resnetv2_50": (64, {}),
    "efficientnet_lite0": (64, {}),
    "tf_efficientnet_b0": (64, {}),
    "mobilenetv3_small_050": (64, {}),
    "mobilenetv4_conv_small": (64, {}),
    "ghostnet_050": (64, {}),
    "ghostnetv2_100": (64, {}),
    "res2net50_14w_8s": (64, {}),
    "levit_128s": (224, {}),
    "convnext_atto": (64, {}),
    "convnextv2_atto": (64, {}),
    "vit_tiny_patch16_224": (64, {"img_size": 64}),
    "deit_tiny_patch16_224": (64, {"img_size": 64}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "resmlp_12_224": (64, {"img_size": 64}),
    "dm_nfnet_f0": (64, {}),
    "nf_regnet_b1": (64, {}),
    "repvgg_a0": (64, {}),
    "hrnet_w18_small": (64, {}),
    "dla34": (64, {}),
    "cspresnet50": (64, {}),
    "cspdarknet53": (64, {}),
    "edgenext_xx_small": (64, {}),
    "poolformer_s12": (64, {}),
    "coat_tiny": (64, {"img_size": 64}),
    "mobilevit_xxs": (64, {}),
    "mobileone_s0": (64, {}),
    "fastvit_t8": (64, {}),
    "regnety_002": (64, {}),
    "rexnet_100": (64, {}),
    "swin_tiny_patch4_window7_224": (56, {"img_size": 56}),
    "tiny_vit_5m_224": (224, {}),
    "efficientformer_l1": (224, {}),
    "pvt_v2_b0": (64, {}),
    "xcit_nano_12_p16_224": (64, {}),
    "visformer_tiny": (64, {"img_size": 64}),
    "selecsls42b": (64, {}),
    "vovnet39a": (64, {}),
    "inception_next_atto": (64, {}),
    "gcresnet33ts": (64, {}),
    "botnet26t_256": (64, {"img_size": 64}),
}


def names() -> list[str]:
    """Of all networks; timm's begin with "timm/"."""
    return [*TORCHVISION, *(f"timm/{name}" for name in TIMM)]


def network(name: str) -> Any:
    """A network that trains, with parameters that are not where they begin."""
    import torch

    torch.manual_seed(SEED)
    if name.startswith("timm/"):
        import timm

        net = timm.create_model(name[5:], pretrained=False, num_classes=CLASSES, **TIMM[name[5:]][1])
    else:
        import torchvision

        net = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **TORCHVISION[name][1])
    for module in net.modules():
        for attribute in ("p", "drop_prob", "drop_rate"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)
    with torch.no_grad():
        for key, value in net.named_parameters():
            if value.dim() == 1 or "gamma" in key or "layer_scale" in key:
                value.add_(torch.randn_like(value) * 0.1)
    return net.train()


def size_of(name: str) -> int:
    """Of an image."""
    return (TIMM[name[5:]] if name.startswith("timm/") else TORCHVISION[name])[0]
