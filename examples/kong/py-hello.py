"""A plugin in kong-pdk's form: greets by header, turns callers without a name away, notes how long answers are."""

Schema = ({"message": {"type": "string", "default": "hello"}},)
version = "1.0.0"
priority = 100


class Plugin:
    """One for each configuration."""

    def __init__(self, config):
        """Take the configuration, checked by Kong and with its defaults in place."""
        self.message = config["message"]

    def access(self, kong):
        """Before the service is asked."""
        name, _ = kong.request.get_query_arg("name")
        if name is None:
            kong.response.exit(401, '{"message": "who are you?"}\n', {"content-type": "application/json"})
        kong.service.request.set_header("x-greeting", f"{self.message}, {name}")

    def response(self, kong):
        """With the service's answer at hand."""
        body, _ = kong.service.response.get_raw_body()
        kong.response.set_header("x-length", str(len(body)))

    def log(self, kong):
        """Afterwards."""
        status, _ = kong.response.get_status()
        kong.log.notice("answered with ", status)


if __name__ == "__main__":
    from kong_pdk.cli import start_dedicated_server

    start_dedicated_server("py-hello", Plugin, version, priority)
