"""One recipe from its manifests to a model folder: what `esrt train` calls."""

from __future__ import annotations

from pathlib import Path

from esrt.train import checkpoint, finish, setup
from esrt.train.recipes import Recipe


def run(recipe: Recipe, data: Path, folder: Path) -> None:
    """Trains a recipe on the manifests in `data`, state and log in `folder`; a run that was stopped goes on.

    The main process prints the model folder, `folder`/model. Raises UsageError (manifest_..., batch_not_divisible,
    run_...) and ModelError.
    """
    checkpoint.begin(folder)
    trainer = setup.build(recipe, data, folder)
    trainer.accelerator.init_trackers(recipe.name)
    trainer.run()
    model = folder / "model"
    finish.save_delta(trainer, model, finish.card(recipe))
    trainer.accelerator.print(model)
    trainer.accelerator.end_training()
