"""METHODS: every method by its name. The table is literal, so that listing it imports nothing heavy."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from comodal.errors import ConfigError, message, nearest

if TYPE_CHECKING:
    from comodal.method import Method


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes:
        path: "module:Class" inside comodal.
        summary: One sentence.
        tasks: "segmentation", "classification" or both.
        at_training, at_test: What it needs, in words.
        citation: Equals `str(Class.paper)`; a test holds them together.
    """

    path: str
    summary: str
    tasks: tuple[str, ...]
    at_training: str
    at_test: str
    citation: str


METHODS: dict[str, Entry] = {
    "unet": Entry(
        path="comodal.methods.unet:UNet",
        summary="One U-Net on all images (early fusion); an absent one is its mean, the 'Mean' baseline of HeMIS.",
        tasks=("segmentation",),
        at_training="any images; those that a case has",
        at_test="any non-empty subset",
        citation="Havaei, Guizard, Chapados, Bengio (2016). HeMIS: Hetero-Modal Image Segmentation. MICCAI, arXiv:1607.05194.",
    ),
    "moddrop": Entry(
        path="comodal.methods.moddrop:ModDrop",
        summary="The same U-Net, trained with a random subset of the images of each case (modality dropout).",
        tasks=("segmentation",),
        at_training="any images; those that a case has",
        at_test="any non-empty subset",
        citation="Neverova, Wolf, Taylor, Nebout (2016). ModDrop: Adaptive Multi-Modal Gesture Recognition. "
        "IEEE TPAMI, arXiv:1501.00102.",
    ),
    "unet-experts": Entry(
        path="comodal.methods.unet_experts:UNetExperts",
        summary="One U-Net for each subset of the images: what a site could train if it knew which will come.",
        tasks=("segmentation",),
        at_training="for each subset, cases that have all of it",
        at_test="any subset that has an expert inside",
        citation="Ronneberger, Fischer, Brox (2015). U-Net: Convolutional Networks for Biomedical Image Segmentation. MICCAI, "
        "arXiv:1505.04597.",
    ),
    "mlp-fill": Entry(
        path="comodal.methods.mlp_fill:MLPFill",
        summary="A perceptron fills in missing images voxel by voxel, then a U-Net segments; the 'MLP' baseline of HeMIS.",
        tasks=("segmentation",),
        at_training="at least two images; those that a case has",
        at_test="any non-empty subset",
        citation="Havaei, Guizard, Chapados, Bengio (2016). HeMIS: Hetero-Modal Image Segmentation. MICCAI, arXiv:1607.05194.",
    ),
    "hemis": Entry(
        path="comodal.methods.hemis:HeMIS",
        summary="A back end per modality, mean and variance over the available ones, one front end (HeMIS); 2-D.",
        tasks=("segmentation",),
        at_training="any images; those that a case has",
        at_test="any non-empty subset",
        citation="Havaei, Guizard, Chapados, Bengio (2016). HeMIS: Hetero-Modal Image Segmentation. MICCAI, arXiv:1607.05194.",
    ),
    "u-hemis": Entry(
        path="comodal.methods.u_hemis:UHeMIS",
        summary="HeMIS as a U-Net: an encoder per modality, moments over the available ones at every scale; 2-D and 3-D.",
        tasks=("segmentation",),
        at_training="any images; those that a case has",
        at_test="any non-empty subset",
        citation="Dorent, Joutard, Modat, Ourselin, Vercauteren (2019). Hetero-Modal Variational Encoder-Decoder for Joint "
        "Modality Completion and Segmentation. MICCAI, arXiv:1907.11150.",
    ),
    "cmim-seg": Entry(
        path="comodal.methods.cmim_seg:CMIMSeg",
        summary="A U-Net per modality whose maps keep mutual information with those of a multimodal one (CMIM).",
        tasks=("segmentation",),
        at_training="any images; those that a case has",
        at_test="any non-empty subset",
        citation="Sylvain, Dutil, Berthier, Di Jorio, Luck, Hjelm, Bengio (2021). CMIM: Cross-Modal Information Maximization "
        "for Medical Imaging. ICASSP, arXiv:2010.10593.",
    ),
    "ciml": Entry(
        path="comodal.methods.ciml:CIML",
        summary="A segmentor per modality, which takes from the others only what its own lacks (CIML), with maps of it.",
        tasks=("segmentation",),
        at_training="any images; those that a case has",
        at_test="any non-empty subset; without spare heads, an owner of each region",
        citation="Shen, Li, Chen, Wang, Zhu, Li, Wang, Jin (2024). Complementary Information Mutual Learning for Multimodality "
        "Medical Image Segmentation. arXiv:2401.02717.",
    ),
    "ciml-shapes": Entry(
        path="comodal.methods.ciml_shapes:CIMLShapes",
        summary="The verification task of CIML: a map of what an auxiliary image adds to a primary one; 2-D and 3-D.",
        tasks=("segmentation",),
        at_training="two images, a primary and an auxiliary one; cases that have the primary",
        at_test="the primary image, with or without the auxiliary",
        citation="Shen, Li, Chen, Wang, Zhu, Li, Wang, Jin (2024). Complementary Information Mutual Learning for Multimodality "
        "Medical Image Segmentation. arXiv:2401.02717.",
    ),
    "classifier": Entry(
        path="comodal.methods.classifier:Classifier",
        summary="An encoder and a head for each target: images, bags or vectors, one modality or several.",
        tasks=("classification",),
        at_training="all modalities that it is given",
        at_test="the same",
        citation="Mallya, Hamarneh (2022). Deep Multimodal Guidance for Medical Image Classification. MICCAI, "
        "arXiv:2203.05683.",
    ),
    "clam": Entry(
        path="comodal.methods.clam:CLAM",
        summary="Gated attention over a bag, whose most and least attended items learn from its label (CLAM-SB).",
        tasks=("classification",),
        at_training="a bag of pictures or vectors",
        at_test="the same",
        citation="Lu, Williamson, Chen, Chen, Barbieri, Mahmood (2021). Data-efficient and weakly supervised computational "
        "pathology on whole-slide images. Nature Biomedical Engineering, arXiv:2004.09666.",
    ),
    "late-fusion": Entry(
        path="comodal.methods.late_fusion:LateFusion",
        summary="An encoder for each modality and a head on all latents; each modality has heads for when others are absent.",
        tasks=("classification",),
        at_training="two or more modalities; those that a case has",
        at_test="any non-empty subset; with absent: refuse, all",
        citation="Kawahara, Daneshvar, Argenziano, Hamarneh (2019). Seven-Point Checklist and Skin Lesion Classification "
        "Using Multitask Multimodal Neural Nets. IEEE JBHI, doi:10.1109/JBHI.2018.2824327.",
    ),
    "guidance": Entry(
        path="comodal.methods.guidance:Guidance",
        summary="A superior modality, there only in training, guides a classifier on an inferior one (deep guidance).",
        tasks=("classification",),
        at_training="an inferior and a superior modality, in pairs; further cases with either",
        at_test="the inferior modality alone",
        citation="Mallya, Hamarneh (2022). Deep Multimodal Guidance for Medical Image Classification. MICCAI, "
        "arXiv:2203.05683.",
    ),
    "cmim-class": Entry(
        path="comodal.methods.cmim_class:CMIMClass",
        summary="Encoders of images and reports that share mutual information; a head for each and one for several (CMIM).",
        tasks=("classification",),
        at_training="two or more images and reports; those that a case has",
        at_test="any non-empty subset",
        citation="Sylvain, Dutil, Berthier, Di Jorio, Luck, Hjelm, Bengio (2021). CMIM: Cross-Modal Information Maximization "
        "for Medical Imaging. ICASSP, arXiv:2010.10593.",
    ),
    "tienet": Entry(
        path="comodal.methods.tienet:TieNet",
        summary="An image and its report classified together; where there is no report it writes one first (TieNet).",
        tasks=("classification",),
        at_training="images, and reports of some of them",
        at_test="the image, with or without its report",
        citation="Wang, Peng, Lu, Lu, Summers (2018). TieNet: Text-Image Embedding Network for Common Thorax Disease "
        "Classification and Reporting in Chest X-rays. CVPR, arXiv:1801.04334.",
    ),
    "local-mi": Entry(
        path="comodal.methods.local_mi:LocalMI",
        summary="Regions of an image and sentences of its report tell of each other (local MI); then a classifier of images.",
        tasks=("classification",),
        at_training="an image and a report, in pairs; labelled images",
        at_test="the image alone",
        citation="Liao, Moyer, Cha, Quigley, Berkowitz, Horng, Golland, Wells (2021). Multimodal Representation Learning via "
        "Maximization of Local Mutual Information. MICCAI, arXiv:2103.04537.",
    ),
    "convirt": Entry(
        path="comodal.methods.convirt:ConVIRT",
        summary="An image and its report are pulled together among those of the batch (ConVIRT); then a classifier of images.",
        tasks=("classification",),
        at_training="an image and a report, in pairs; labelled images",
        at_test="the image alone",
        citation="Zhang, Jiang, Miura, Manning, Langlotz (2020). Contrastive Learning of Medical Visual Representations from "
        "Paired Images and Text. MLHC 2022, arXiv:2010.00747.",
    ),
}


def load_method(name: str) -> type[Method]:
    """The class of a method of METHODS.

    Only names of the table are imported: a name found in a file can never import anything else.

    Raises:
        ConfigError: The name is unknown; the message lists the nearest known ones.
    """
    if name not in METHODS:
        raise ConfigError(message("method.name", "be a known method", repr(name), do=nearest(name, METHODS)))
    module, cls = METHODS[name].path.split(":")
    found: type[Method] = getattr(importlib.import_module(module), cls)
    return found
