"""The pipeline of a fine-tuned text classifier."""

from typing import Any

import numpy as np
from transformers import TextClassificationPipeline

from hf_transfer.evaluation.decision import Decision
from hf_transfer.models import longest_input


class DecidingTextClassificationPipeline(TextClassificationPipeline):
    """`transformers.TextClassificationPipeline` with the temperature and threshold kept in the model's config.

    As there, a text gives ``[{"label", "score"}]`` and a list of texts such a dictionary each: here the label is the
    one decided, and the score its calibrated probability. Where a text may have several labels, it gives a list of
    them. ``top_k=None`` gives the scores of all labels, the likeliest first.
    """

    def preprocess(self, inputs: Any, **tokenizer_kwargs: Any) -> Any:
        limit = longest_input(self.tokenizer, self.model.config)
        return super().preprocess(inputs, **{"truncation": True, "max_length": limit, **tokenizer_kwargs})

    def postprocess(
        self, model_outputs: Any, function_to_apply: Any = None, top_k: int | None = 1, _legacy: bool = True
    ) -> Any:
        if function_to_apply is not None:
            return super().postprocess(model_outputs, function_to_apply, top_k, _legacy)
        config = self.model.config
        decision = Decision.read(config)
        probabilities = decision.probabilities(model_outputs["logits"].float().cpu().numpy())
        chosen, scores = decision.labels(probabilities)[0], probabilities[0]
        found = [{"label": config.id2label[i], "score": float(score)} for i, score in enumerate(scores)]
        if decision.multi_label and top_k == 1 and _legacy:
            return [label for label, taken in zip(found, chosen, strict=True) if taken]
        if not decision.multi_label and top_k == 1:
            return found[int(chosen)] if _legacy else [found[int(chosen)]]
        return sorted(found, key=lambda label: -label["score"])[:top_k]

    def decide(self, rows: list[dict[str, Any]], *, batch_size: int) -> list[dict[str, Any]]:
        """For each row the decided label (or labels), its score, and the scores of all labels."""
        inputs = [{"text": row["text"], "text_pair": row.get("text_pair")} for row in rows]
        inputs = [pair if pair["text_pair"] is not None else {"text": pair["text"]} for pair in inputs]
        decision = Decision.read(self.model.config)
        found: list[dict[str, Any]] = []
        for scores in self(inputs, top_k=None, batch_size=batch_size):
            by_name = {label["label"]: label["score"] for label in scores}
            names = [self.model.config.id2label[i] for i in range(len(by_name))]
            chosen = decision.labels(np.array([[by_name[name] for name in names]]))[0]
            if decision.multi_label:
                found.append({"label": [name for name, taken in zip(names, chosen, strict=True) if taken]})
            else:
                found.append({"label": names[chosen], "score": by_name[names[chosen]]})
            found[-1]["scores"] = by_name
        return found
