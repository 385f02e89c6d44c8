"""The library behind the four scripts: from raw transactions to a proof that training equals serving.

Data flows one way, and each module is one station of it:

    transactions   raw purchases, read and typed once, at the edge
    aggregation    purchases to features, exactly
    offline        the feature history, and what training reads of it
    online         what Redis holds, and what serving reads of it
    proof          the two sides, compared by key and for equality

`repository` opens the Feast repository that ties them together, `redis_server` runs a Redis where a machine has
none, `files` and `command` are the edges to the disk and to the person at the terminal.
"""
