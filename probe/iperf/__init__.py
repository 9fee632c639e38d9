"""iperf3, kept at arm's length: each run has a process of its own, for the library owns its process and hangs on dead networks.

child     one run of libiperf; a program of its own, never imported by the probe at work
runner    starts a child, reads what it says, ends it by deadline, stall or cancel
document  iperf3's JSON document to the contract's DirectionResult
errors    what went wrong to the contract's error catalogue
"""
