"""What a gateway may expect of any runner: tests that ask a socket, whoever listens there.

    pytest --pyargs gatewright.testing.conformance --runner unix:/tmp/runner.sock
    pytest --pyargs gatewright.testing.conformance --plugin-server unix:/usr/local/kong/python_pluginserver.sock

They change nothing, name no plugin that could be there, and leave connections closed.
"""
