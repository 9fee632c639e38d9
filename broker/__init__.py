"""The bus: the one MQTT client every role uses (`broker.client`) and the embedded broker (`broker.server`).

This package imports nothing, so that a probe that needs the client never loads the server.
"""
