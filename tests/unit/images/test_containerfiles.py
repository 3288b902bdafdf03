"""Two files rather than two targets of one: buildah 1.28, which Debian 12 has, builds stages that a target does not need,
so that whoever builds one image would build both."""

from __future__ import annotations

from pathlib import Path

IMAGES = Path(__file__).parents[3] / "images"


def lines(name: str) -> list[str]:
    """Without the comment at the top, and with the image's own name taken out."""
    written = (IMAGES / name / "Containerfile").read_text().splitlines()
    return [line.replace(f"requirements/{name}.txt", "X").replace(f"gapo-{name}", "X") for line in written][
        1:
    ]


def test_the_images_differ_in_what_they_need_and_in_what_they_start_alone() -> None:
    operator, trainer = lines("operator"), lines("trainer")
    assert len(operator) == len(trainer) > 30
    assert [(a, b) for a, b in zip(operator, trainer, strict=True) if a != b] == [
        (
            "#   podman build -f images/operator/Containerfile -t X .",
            "#   podman build -f images/trainer/Containerfile -t X .",
        ),
        ('ENTRYPOINT ["python", "-m", "gapo_operator"]', 'ENTRYPOINT ["python", "-m", "gapo_trainer"]'),
    ]
