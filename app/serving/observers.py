"""Who wants to know what was predicted: the counts, and the journal if there is one. Predicting knows of neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.responses import Response

from app.serving.model_server import Predicted

HEADER = b"x-request-id"
Observe = Callable[[Predicted, str | None], None]


class Observed:
    """One request, and who wants to know what it was answered.

    Parameters
    ----------
    observers : sequence of callable
        Each is told what was predicted, and the request's id. It must be quick: the request waits for it.
    request_id : str, optional
        It is echoed, so that feedback can name it. Only a journal needs one.
    """

    def __init__(self, observers: Sequence[Observe], request_id: str | None = None) -> None:
        self._observers = observers
        self._id = request_id
        self.headers = [(HEADER, request_id.encode())] if request_id is not None else []

    def tell(self, predicted: Predicted) -> Predicted:
        """Tell all observers, and return what was predicted."""
        for observe in self._observers:
            observe(predicted, self._id)
        return predicted

    def echo(self, response: Response) -> None:
        response.raw_headers += self.headers
