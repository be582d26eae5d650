"""The pipeline of a fine-tuned text classifier."""

from collections.abc import Callable
from typing import Any

from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase, TextClassificationPipeline

from hf_transfer.data.values import is_blank, read_text
from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.input import ModelInputs
from hf_transfer.inputs.text.padding import align_padding
from hf_transfer.inputs.text.positions import DEFAULT_MAX_LENGTH, NO_LIMIT, max_input_length
from hf_transfer.targets.labels.pipeline_mixin import LabelPipelineMixin


class CalibratedTextClassificationPipeline(LabelPipelineMixin, TextClassificationPipeline):
    """`transformers.TextClassificationPipeline` with the temperature and threshold in the model's config.

    As there, a text gives ``[{"label", "score"}]`` and a list of texts gives such a dictionary for each. Here the
    label is chosen by the threshold, and the score is its calibrated probability. If a text may have several labels,
    it gives a list of them. ``top_k=None`` gives the scores of all labels, the most probable first. If the target is a
    number, it is the ``score``, as in transformers' pipeline, in the unit of the labels.
    """

    rows_per_chunk = 1024
    """Rows that `predict` passes to `decide` together; many, so that texts of similar length can share a batch."""
    has_logged_truncation = False

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classify one or several texts, or pairs of texts, and return labels with scores.

        Raises:
            InputError: a text is None, or holds half a character (a lone surrogate).
        """
        if isinstance(inputs, list) and not inputs:
            return []
        if inputs is None or (isinstance(inputs, list) and any(text is None for text in inputs)):
            raise InputError("A text is None: expected strings, or dictionaries with text and text_pair.")
        for text in inputs if isinstance(inputs, list) else [inputs]:
            if isinstance(text, str) and not is_blank(text) and (problem := read_text(text)[1]):
                raise InputError(f"{text[:60]!a} is not a valid text: {problem}.")
        return super().__call__(inputs, **kwargs)

    def preprocess(self, inputs: Any, **tokenizer_kwargs: Any) -> BatchEncoding:
        """Return the tensors of a tokenized text, truncated to the length of training, by name."""
        max_length = self.tokenizer.model_max_length
        encoding = super().preprocess(inputs, **{"truncation": True, "max_length": max_length, **tokenizer_kwargs})
        if encoding["input_ids"].shape[-1] >= max_length and not self.has_logged_truncation:
            self.has_logged_truncation = True
            text = inputs["text"] if isinstance(inputs, dict) else inputs
            logger.info("Texts that reach %d tokens are truncated there, as in training, such as %r.",
                        max_length, str(text)[:60])  # fmt: skip
        return encoding

    def _forward(self, model_inputs: Any) -> Any:
        # Logits only: the pipeline cannot split the further outputs of XLNet and T5 into those of each text.
        return {"logits": super()._forward(model_inputs)["logits"]}

    def postprocess(
        self, model_outputs: Any, function_to_apply: Any = None, top_k: int | None = 1, _legacy: bool = True
    ) -> Any:
        """Return the predicted label or labels of a text with scores, or the scores of all labels."""
        is_cross_encoder = self.model.config.num_labels == 1 and not self.predicts_number
        if function_to_apply is not None or is_cross_encoder:
            return super().postprocess(model_outputs, function_to_apply, top_k, _legacy)
        scores = self.label_scores(model_outputs["logits"])
        if self.predicts_number:
            return scores[0] if top_k == 1 and _legacy else scores
        if self.decision.multi_label and top_k == 1 and _legacy:
            return self.predicted_labels(scores)
        if not self.decision.multi_label and top_k == 1:
            best = self.predicted_labels(scores)[0]
            return best if _legacy else [best]
        return scores[:top_k]

    def predict_records(self, rows: list[dict[str, Any]], *, batch_size: int) -> list[dict[str, Any]]:
        """Return a record for each row: ``label``, ``score`` and ``scores``, or ``prediction``, or ``error``.

        ``prediction`` is a number.

        Args:
            rows: with ``text``, and ``text_pair`` if the model classifies pairs.
            batch_size: number of texts in a batch.

        Raises:
            InputError: the model classifies pairs and the rows are single texts, or the other way round.
        """
        takes_pairs = getattr(self.model.config, "text_pairs", False)
        for row in rows:
            if ("text_pair" in row) != takes_pairs:
                raise InputError(
                    "The model classifies pairs of texts: predict them from a file (--file FILE --text_column_name "
                    'COLUMN --text_pair_column_name COLUMN), or from Python as {"text": ..., "text_pair": ...}.'
                    if takes_pairs
                    else "The model classifies single texts: leave out text_pair (--text_pair_column_name)."
                )
        read = [{name: read_text(value) for name, value in row.items()} for row in rows]
        records: list[dict[str, Any]] = [
            {"error": next((problem for _, problem in cells.values() if problem), None)} for cells in read
        ]
        valid_rows = [i for i, record in enumerate(records) if record["error"] is None]
        if valid_rows:
            texts = [{name: text for name, (text, _) in read[i].items()} for i in valid_rows]
            padding_changes_outputs = getattr(self.model.config, "padding_changes_outputs", False)
            scores = self(texts, top_k=None, batch_size=1 if padding_changes_outputs else batch_size)
            for i, record in zip(valid_rows, self.prediction_records(scores), strict=True):
                records[i] = record
        return records

    def outputs_of(self, inputs: ModelInputs, predict: Callable[[ModelInputs], Any]) -> Any:
        """Return the model's output for each example, computed in batches by the given function."""
        return predict(inputs)

    @classmethod
    def from_model(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> "CalibratedTextClassificationPipeline":
        """Return the pipeline of a model and a tokenizer.

        A model of another toolkit is adapted to its tokenizer's padding and length.
        """
        if not hasattr(model.config, "padding_changes_outputs"):
            align_padding(model, tokenizer)
        if tokenizer.model_max_length >= NO_LIMIT:
            tokenizer.model_max_length = max_input_length(model, tokenizer) or DEFAULT_MAX_LENGTH
        return cls(model=model, tokenizer=tokenizer)
