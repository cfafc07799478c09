"""Pictures that are damaged or none: each gives an image or a refusal that names it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from lenet_dist.data import picture
from lenet_dist.exits import RequestError
from tests.properties import PROPERTY
from tests.test_picture import DIGITS, enlarged


def write_refused(folder: Path) -> list[tuple[str, Path]]:
    """Files that are no pictures of a digit, each after what is said of it."""
    noisy = np.random.default_rng(0).normal(200, 5, (80, 80)).clip(0, 255).astype(np.uint8)
    digit = Image.fromarray(enlarged(DIGITS[0], 100))
    blank = "nothing is drawn on it"
    saved = [
        (blank, "blank.png", Image.new("L", (50, 50), 230)),
        (blank, "dot.png", Image.new("L", (1, 1))),
        (blank, "noisy.png", Image.fromarray(noisy)),
        (blank, "clear.png", Image.new("RGBA", (50, 50))),
        ("more than 50,000,000 pixels", "large.png", Image.new("1", (7100, 7100))),
        ("more than 50,000,000 pixels", "absurd.png", Image.new("1", (20_000, 20_000))),
        ("a damaged one", "cut.png", digit),
        ("a damaged one", "cut.jpg", digit),
        ("not a picture", "postscript.eps", digit),
    ]
    for _, name, image in saved:
        image.save(folder / name)
    for name in ("cut.png", "cut.jpg"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    # The header is enough to refuse it: nothing is decoded.
    header = (folder / "absurd.png").read_bytes()[:60]
    (folder / "header.png").write_bytes(header)
    (folder / "text.png").write_text("A digit.")
    (folder / "empty.png").touch()
    os.mkfifo(folder / "pipe")
    return [
        *[(said, folder / name) for said, name, _ in saved],
        ("more than 50,000,000 pixels", folder / "header.png"),
        ("not a picture", folder / "text.png"),
        ("not a picture", folder / "empty.png"),
        ("no such file", folder / "nowhere.png"),
        ("Is a directory", folder),
        ("a pipe or a device", folder / "pipe"),
        ("a pipe or a device", Path("/dev/zero")),
    ]


def test_what_is_not_a_picture_of_a_digit_is_refused_by_name(tmp_path: Path) -> None:
    for said, file in write_refused(tmp_path):
        with pytest.raises(RequestError) as refused:
            picture.read(file)
        assert str(refused.value).startswith(f"{file}: ")
        assert said in str(refused.value)


def saved(form: str, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(255 - enlarged(DIGITS[1], 60)).save(content, form, **options)
    return content.getvalue()


def oriented() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    return exif


WHOLE = (
    saved("PNG", exif=oriented()), saved("JPEG", exif=oriented()), saved("JPEG", progressive=True),
    saved("GIF"), saved("BMP"), saved("WEBP"),
)  # fmt: skip


@settings(PROPERTY, max_examples=300)
@given(data=st.data(), whole=st.sampled_from(WHOLE))
def test_any_damage_gives_an_image_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, whole: bytes
) -> None:
    damaged = bytearray(whole)
    # Most of what can go wrong is in the first bytes, which say what the rest is.
    places = st.one_of(st.integers(0, min(len(whole), 200) - 1), st.integers(0, len(whole) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=5)):
        damaged[place] = value
    length = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    file = tmp_path_factory.getbasetemp() / "damaged"
    file.write_bytes(damaged[:length])
    try:
        made = picture.read(file)
    except RequestError as refused:
        assert str(refused).startswith(f"{file}: ")
    else:
        assert (made.shape, made.dtype) == ((28, 28), np.uint8)
