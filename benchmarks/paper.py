"""The paper's images a second at 512², on a V100 with the largest batch that fits."""

# Table 3, and Table 6 where it has another number or the only one; 400 is the text's of section 4.3.
IMAGES_PER_SECOND: dict[str, tuple[int, ...]] = {
    "seg-ti-16": (396,),
    "seg-s-32": (1032,),
    "seg-s-16": (196,),
    "seg-b-deit-16": (92, 77),
    "seg-b-32": (516,),
    "seg-b-16": (92,),
    "seg-b-8": (7,),
    "seg-l-16": (33,),
    "seg-b-deit-mask-16": (76,),
    "seg-b-mask-32": (400,),
    "seg-l-mask-16": (31,),
}
