"""Plugins for the phases that only the lean path has; each does what its configuration says."""

SOURCE = """
from gatewright import Plugin, Response

def compiled(arguments, code):
    space = {"Response": Response}
    exec(f"def run({arguments}):\\n    {code or 'pass'}", space)
    return space["run"]

class Answers(Plugin):
    def __init__(self, config=None):
        super().__init__(config)
        self.run = compiled("request, response", self.config.get("code"))
    def on_response(self, request, response):
        return self.run(request, response)

class AnswersAsync(Plugin):
    async def on_response(self, request, response):
        body = await response.body()
        response.headers["x-size"] = str(len(body))

class Early(Answers):
    name = "early"
    early_response = True

class Logs(Plugin):
    def on_request(self, request):
        request.ctx["told"] = "in the request"
    def on_log(self, request, response):
        if "x-raise" in request.headers:
            raise ValueError("in the log phase")
        self.log.warning("ended: %s %s %s %s %s %s", request.method, request.path, response.status,
            request.ctx.get("told"), response.headers.get("x-upstream"), request.route)

class LogsAsync(Plugin):
    async def on_log(self, request, response):
        self.log.warning("ended, too: %s %s", request.client_ip, await request.var("request_time"))

class Who(Plugin):
    def on_request(self, request):
        before = request.consumer
        request.set_consumer("ada")
        request.headers["x-who"] = f"{before} {request.consumer}"
"""
