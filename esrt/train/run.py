"""One recipe from its manifests to a model folder: what `esrt train` calls."""

from __future__ import annotations

from pathlib import Path

from esrt.errors import UsageError
from esrt.train import finish, setup
from esrt.train.recipes import RECIPES


def run(name: str, data: Path, folder: Path) -> Path:
    """Trains recipe `name` on the manifests in `data`, state and log in `folder`; a run that was stopped goes on.

    Returns the model folder, `folder`/model. Raises UsageError (unknown_recipe, manifest_...) and ModelError.
    """
    if name not in RECIPES:
        raise UsageError("unknown_recipe", f"There is no recipe {name!r}; there is {', '.join(RECIPES)}.")
    recipe = RECIPES[name]()
    folder.mkdir(parents=True, exist_ok=True)
    trainer = setup.build(recipe, data, folder)
    trainer.run(folder)
    model = folder / "model"
    finish.save_delta(trainer, model, finish.card(recipe))
    return model
