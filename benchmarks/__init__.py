"""Speed, measured side by side: ``python -m benchmarks`` and ``python -m benchmarks.growth``.

``work`` says what every contender does and checks that it does it, ``contenders`` and ``peers``
hold the applications, ``direct`` calls them in this process and ``wire`` over HTTP, ``rounds``
interleaves the measurements, ``report`` and ``chart`` show them.
"""
