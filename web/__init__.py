"""The page: Flask on waitress, live by server-sent events relayed from the broker."""
