"""Vocabularies in Hugging Face's `tokenizer.json`, read by the tokenizers package."""

from diptych.core.data.tokenizers.base import Tokenizer


class HuggingFaceTokenizer(Tokenizer):
    """The tokenizer of a `tokenizer.json`, given as the bytes of the file."""

    file_name = "tokenizer.json"

    def __init__(self, data: bytes, *, pad_id: int | None):
        try:
            from tokenizers import Tokenizer as Definition
        except ImportError:
            raise ImportError("reading a tokenizer.json needs the tokenizers package: pip install tokenizers") from None
        try:
            self._definition = Definition.from_buffer(data)
        except Exception as error:  # the package raises nothing more specific
            raise ValueError(
                f"this is no tokenizer.json ({error}); give the file that the tokenizers package wrote"
            ) from None
        self._definition.no_truncation()
        self._definition.no_padding()
        eos_id = self._first_id("<eos>", "</s>", "<|endoftext|>", "[SEP]")
        if eos_id is None:
            raise ValueError("this tokenizer.json has none of the end-of-text tokens <eos>, </s>, <|endoftext|>, [SEP]")
        own_pad_id = self._first_id("<pad>", "[PAD]")
        super().__init__(
            vocab_size=self._definition.get_vocab_size(),
            pad_id=pad_id if pad_id is not None else own_pad_id if own_pad_id is not None else eos_id,
            eos_id=eos_id,
            data=data,
        )

    def token_id(self, token: str) -> int | None:
        return self._definition.token_to_id(token)

    def token(self, token_id: int) -> str:
        return self._definition.id_to_token(token_id) or ""

    def _first_id(self, *tokens: str) -> int | None:
        return next((found for token in tokens if (found := self.token_id(token)) is not None), None)

    def _ids(self, text: str) -> list[int]:
        return self._definition.encode(text, add_special_tokens=False).ids
