"""How fast the library is, and whether it stays correct under load; README.md here has the figures.

    python -m benchmarks               CPU time and speed over HTTP, beside other ways to do it
    python -m benchmarks.latency       latency and round trips with Redis a millisecond away
    python -m benchmarks.growth        the cost by size, by number of sessions, by connections
    python -m benchmarks.memory        memory and objects of a process after a million requests
    python -m benchmarks.report        writes the figures of all these into README.md and the chart
    python -m benchmarks.instructions  machine instructions of a request: compares two versions
    python -m benchmarks.purge         what a purge costs the requests beside it
    python -m benchmarks.soak          load with faults: nothing may be lost or done twice
    python -m benchmarks.comparison    how other libraries behave: the table of the guide

``work`` defines the work of every contender and checks that it is done, ``contenders``, ``peers``
and ``least`` hold the applications, ``wire`` calls them over HTTP and ``direct`` in this process,
``distance`` puts a server far away, ``rounds`` interleaves the measurements, ``results`` keeps
them, and ``tables``, ``chart`` and ``report`` show them. ``compared`` holds the applications of the
comparison.
"""
