"""Example of a plugin that changes the request and lets it go on."""

from apisix.runner.http.request import Request
from apisix.runner.http.response import Response
from apisix.runner.plugin.base import Base


class Rewrite(Base):
    """Adds a header and an argument to every request."""

    def __init__(self) -> None:
        super().__init__(self.__class__.__name__)

    def filter(self, request: Request, response: Response) -> None:
        """Hand the changed headers, arguments and path back."""
        response.headers = {**request.headers, "X-Resp-A6-Runner": "Python"}
        response.args = {**request.args, "a6_runner": "Python"}
        response.path = request.path
        self.rewrite()
