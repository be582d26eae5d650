"""The pipeline of a fine-tuned text classifier."""

from collections.abc import Callable
from typing import Any

from transformers import TextClassificationPipeline

from hf_transfer.data.values import is_blank, read_text
from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.text.models import DEFAULT_LENGTH, NO_LIMIT, longest_input, settle_padding
from hf_transfer.targets.labels.pipeline_mixin import LabelPipelineMixin


class DecidingTextClassificationPipeline(LabelPipelineMixin, TextClassificationPipeline):
    """`transformers.TextClassificationPipeline` with the temperature and threshold kept in the model's config.

    As there, a text gives ``[{"label", "score"}]`` and a list of texts such a dictionary each: here the label is the
    one decided, and the score its calibrated probability. Where a text may have several labels, it gives a list of
    them. ``top_k=None`` gives the scores of all labels, the likeliest first. Where the label is a number, it is the
    ``score``, as in transformers' pipeline, in the unit of the labels.
    """

    rows_at_once = 1024
    """Of a table, as `predict` hands them on: among many, texts of similar length share a batch."""
    said_what_is_cut = False

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """As of transformers' pipeline.

        Raises:
            InputError: there is None, or half a character, where a text is expected.
        """
        if isinstance(inputs, list) and not inputs:
            return []
        if inputs is None or (isinstance(inputs, list) and any(text is None for text in inputs)):
            raise InputError("A text is None: expected strings, or dictionaries with text and text_pair.")
        for text in inputs if isinstance(inputs, list) else [inputs]:
            if isinstance(text, str) and not is_blank(text) and (problem := read_text(text)[1]):
                raise InputError(f"{text[:60]!a} is no text: {problem}.")
        return super().__call__(inputs, **kwargs)

    def preprocess(self, inputs: Any, **tokenizer_kwargs: Any) -> Any:
        limit = self.tokenizer.model_max_length
        found = super().preprocess(inputs, **{"truncation": True, "max_length": limit, **tokenizer_kwargs})
        if found["input_ids"].shape[-1] >= limit and not self.said_what_is_cut:
            self.said_what_is_cut = True
            first = inputs["text"] if isinstance(inputs, dict) else inputs
            logger.info("Texts that reach %d tokens are cut there, as in training, such as %r.",
                        limit, str(first)[:60])  # fmt: skip
        return found

    def _forward(self, model_inputs: Any) -> Any:
        # Nothing else: XLNet's and T5's further outputs cannot be divided into those of each text.
        return {"logits": super()._forward(model_inputs)["logits"]}

    def postprocess(
        self, model_outputs: Any, function_to_apply: Any = None, top_k: int | None = 1, _legacy: bool = True
    ) -> Any:
        scored_by_transformers = self.model.config.num_labels == 1 and not self.predicts_number  # a cross-encoder
        if function_to_apply is not None or scored_by_transformers:
            return super().postprocess(model_outputs, function_to_apply, top_k, _legacy)
        found = self.label_scores(model_outputs["logits"])
        if self.predicts_number:
            return found[0] if top_k == 1 and _legacy else found
        if self.decision.multi_label and top_k == 1 and _legacy:
            return self.predicted_labels(found)
        if not self.decision.multi_label and top_k == 1:
            best = self.predicted_labels(found)[0]
            return best if _legacy else [best]
        return found[:top_k]

    def decide(self, rows: list[dict[str, Any]], *, batch_size: int) -> list[dict[str, Any]]:
        """For each row the decided label (or labels), its score, and the scores of all labels; or an ``error``.

        Where the label is a number, ``prediction``.
        """
        paired = getattr(self.model.config, "text_pairs", False)
        for row in rows:
            if ("text_pair" in row) != paired:
                raise InputError(
                    "The model classifies pairs of texts: predict them from a file (--file FILE --text_column_name "
                    'COLUMN --text_pair_column_name COLUMN), or from Python as {"text": ..., "text_pair": ...}.'
                    if paired
                    else "The model classifies single texts: leave out text_pair (--text_pair_column_name)."
                )
        read = [{name: read_text(value) for name, value in row.items()} for row in rows]
        found: list[dict[str, Any]] = [
            {"error": next((problem for _, problem in cells.values() if problem), None)} for cells in read
        ]
        there = [i for i, record in enumerate(found) if record["error"] is None]
        if there:
            texts = [{name: text for name, (text, _) in read[i].items()} for i in there]
            alone = getattr(self.model.config, "padding_changes_outputs", False)
            scores = self(texts, top_k=None, batch_size=1 if alone else batch_size)
            for i, record in zip(there, self.prediction_records(scores), strict=True):
                found[i] = record
        return found

    def outputs_of(self, inputs: Any, predict: Callable[[Any], Any]) -> Any:
        """What is kept of each example's output: as the trainer computes it in batches."""
        return predict(inputs)

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> "DecidingTextClassificationPipeline":
        """For a model of this project, or another's: then model and tokenizer are made to agree on padding."""
        if not hasattr(model.config, "padding_changes_outputs"):
            settle_padding(model, tokenizer)
        if tokenizer.model_max_length >= NO_LIMIT:
            tokenizer.model_max_length = longest_input(model, tokenizer) or DEFAULT_LENGTH
        return cls(model=model, tokenizer=tokenizer)
