"""The shared test kit: real brokers, raw clients and other parts the tests start for themselves."""
