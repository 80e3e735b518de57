"""Training one stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric

from lit_cascade.batch import forward_logits, split_labels
from lit_cascade.core.labels import is_right
from lit_cascade.core.scores import answers_of
from lit_cascade.cost import FlopMeter
from lit_cascade.data.loading import EvaluationBatch
from lit_cascade.errors import check_file_name
from lit_cascade.preprocessing import Preprocessing

__all__ = ["LitClassifier"]


class LitClassifier(LightningModule):
    """A classifier trained with AdamW and a one-cycle learning rate (arXiv:1708.07120).

    Args:
        network: class (class_path and init_args) of the network.
        name: what to call the stage; names its checkpoint.
        learning_rate: the peak of the cycle.
        weight_decay: of AdamW.
        label_smoothing: share of each target spread over all classes, 0 to 1.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        name: str = "stage",
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_file_name(name, "model.name")
        self.name = name
        self.network = network if isinstance(network, nn.Module) else network()
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.val_accuracy = MeanMetric()
        self._meter = FlopMeter(self.network)

    def preprocessings(self) -> list[Preprocessing | None]:
        """What the network wants done to raw samples, if anything."""
        return [getattr(self.network, "preprocessing", None)]

    def forward(self, inputs: Any) -> Tensor:
        """Logits of a batch, (N, C)."""
        return forward_logits(self.network, inputs, self.name)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross entropy of a batch."""
        del batch_idx
        inputs, labels = split_labels(batch)
        loss = cross_entropy(self(inputs), labels, label_smoothing=self.label_smoothing)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Answers of a batch; logs their accuracy.

        Returns:
            `labels` and `prediction`, and `positions` and `flops` if the split is read for
            evaluation.
        """
        del batch_idx
        if isinstance(batch, EvaluationBatch):
            inputs, labels = split_labels(batch.batch)
            logits = self(inputs)
            prediction = answers_of(logits)
            return {
                "classes": torch.full_like(prediction, logits.shape[1]),
                "labels": labels,
                "prediction": prediction,
                "positions": batch.positions,
                "flops": self._meter(inputs),
            }
        inputs, labels = split_labels(batch)
        prediction = answers_of(self(inputs))
        self.val_accuracy.update(is_right(prediction, labels).float())
        self.log("val_accuracy", self.val_accuracy, prog_bar=True)
        return {"labels": labels, "prediction": prediction}

    def configure_optimizers(self) -> Any:
        """AdamW; the learning rate rises and falls once over the whole run, step by step."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
