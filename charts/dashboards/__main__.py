"""`python -m charts.dashboards`: writes charts/gapo-operator/dashboards/*.json anew."""

from __future__ import annotations

from pathlib import Path

from charts.dashboards import convergence, operations, rollouts
from charts.dashboards.board import Board

FOLDER = Path(__file__).parents[1] / "gapo-operator" / "dashboards"
BOARDS: dict[str, Board] = {
    "stage-convergence": convergence.board(),
    "rollouts-and-gpus": rollouts.board(),
    "operator": operations.board(),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, board in BOARDS.items():
        (FOLDER / f"{name}.json").write_text(board.text_of())


if __name__ == "__main__":
    main()
