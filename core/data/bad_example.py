"""The error of an image, caption or record that cannot be used."""


class BadExample(ValueError):
    """An image, caption or record that cannot be used; `reason` is a short slug that skipped examples are counted
    by.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
