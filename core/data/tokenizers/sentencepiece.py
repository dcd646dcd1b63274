"""SentencePiece vocabularies (`.model` files), as T5, Gemma and the embedded data have them."""

from diptych.core.data.tokenizers.base import Tokenizer


class SentencePieceTokenizer(Tokenizer):
    """The tokenizer of a SentencePiece model, given as the bytes of its file."""

    file_name = "tokenizer.model"

    def __init__(self, data: bytes, *, pad_id: int | None):
        from sentencepiece import SentencePieceProcessor

        try:
            self._processor = SentencePieceProcessor()
            self._processor.LoadFromSerializedProto(data)
        except RuntimeError as error:
            raise ValueError(
                f"this is no SentencePiece model ({error}); give the .model file that its trainer wrote"
            ) from None
        eos_id = self._processor.eos_id()
        if eos_id < 0:
            raise ValueError("this SentencePiece model has no end-of-text piece; train it with eos_id set")
        own_pad_id = self._processor.pad_id()
        super().__init__(
            vocab_size=self._processor.vocab_size(),
            pad_id=pad_id if pad_id is not None else own_pad_id if own_pad_id >= 0 else eos_id,
            eos_id=eos_id,
            data=data,
        )

    def token_id(self, token: str) -> int | None:
        token_id = self._processor.piece_to_id(token)
        return token_id if self._processor.id_to_piece(token_id) == token else None

    def token(self, token_id: int) -> str:
        return self._processor.id_to_piece(token_id)

    def _ids(self, text: str) -> list[int]:
        return self._processor.encode_as_ids(text)
