"""One recipe from its manifests to a model folder: what `esrt train` calls."""

from __future__ import annotations

from pathlib import Path

from accelerate.utils import broadcast_object_list

from esrt.train import checkpoint, finish, setup
from esrt.train.recipes import Recipe


def run(recipe: Recipe, data: Path, folder: Path) -> None:
    """Trains a recipe on the manifests in `data`, state and log in `folder`; a run that was stopped goes on.

    A model that is there, of a run that had ended, stays with what it has got since. The main process prints
    the model folder, `folder`/model. Raises UsageError (manifest_..., batch_not_divisible, run_..., wandb_refused) and
    ModelError.
    """
    checkpoint.begin(folder)
    trainer = setup.build(recipe, data, folder)
    trainer.accelerator.init_trackers(recipe.name)
    trainer.run()
    model = folder / "model"
    # The main process says it for all: it alone has surely written the state by now.
    (kept,) = broadcast_object_list([checkpoint.is_of(model, folder)])
    if not kept:
        finish.save_delta(trainer, model, finish.card(recipe))
    trainer.accelerator.print(model)
    trainer.accelerator.end_training()
