"""How a request is refused: a status, one line, and whether it is worth coming again."""


class Refused(Exception):
    """A request that is not answered with probabilities.

    Attributes:
        status: Of HTTP.
        line: What is wrong and how to mend it; it names no place on the server's machine.
        again: Whether the same request may succeed in a second, which ``Retry-After`` says.
    """

    def __init__(self, status: int, line: str, again: bool = False) -> None:
        super().__init__(line)
        self.status = status
        self.line = line
        self.again = again
