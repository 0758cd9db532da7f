"""Example of a plugin that answers the client itself."""

from apisix.runner.http.request import Request
from apisix.runner.http.response import Response
from apisix.runner.plugin.base import Base


class Stop(Base):
    """Answers every request with 201 and a greeting."""

    def __init__(self) -> None:
        super().__init__(self.__class__.__name__)

    def filter(self, request: Request, response: Response) -> None:
        """Fill in the answer, then stop."""
        response.headers = {**request.headers, "X-Resp-A6-Runner": "Python"}
        response.body = "Hello, Python Runner of APISIX"
        response.status_code = 201
        self.stop()
