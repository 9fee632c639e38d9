"""The contract of Netloom: messages, topics, error codes, limits and the legacy JSON view. Pure: no I/O, no import of ours.

base      the two kinds of model (Closed asks, Tolerant reports) and the types they share
limits    every default and bound
topics    topics, built and parsed
command   probe/<name>/cmd              progress  probe/<name>/progress      result  probe/<name>/result
ack       probe/<name>/ack              status    probe/<name>/status, controller/status
autotest  probe/<name>/autotests        request   client/<id>/request/<verb>, client/<id>/reply
codec     bytes to messages and back    errors    the catalogue              sentences  what to say of a field
legacy    Supervision's JSON view       iperf     a speedtest as arguments   export     JSON Schema documents
"""

from schemas.errors import CATALOGUE, ErrorInfo, Failure, error
from schemas.legacy import legacy_view

__all__ = ["CATALOGUE", "ErrorInfo", "Failure", "error", "legacy_view"]
