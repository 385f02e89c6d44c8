"""The library behind the four scripts: from raw transactions to a proof that training equals serving.

Data flows one way, and each module is one station of it:

    transactions   raw purchases, read and typed once, at the edge
      refusals       what is said of those that are refused
    aggregation    purchases to features, exactly
      continued      the same a part at a time; partitions, incremental and spark are made of it
    offline        the feature history, and what training reads of it
      offline_store  Feast's DuckDB store, faster
    online         what Redis holds, and what serving reads of it
      online_store   Feast's Redis store, with guarantees. It gets to Redis by online_connection, looks through requests
                     in online_requests and has Redis run online_scripts; its fast paths are online_read, online_columns
    materialization  from the one to the other, and in step; engine is the fast path, replay another instant
    oracle         what the transactions give, worked out the slow way
    proof          the three sides, compared by key and for equality
      causes         why two of them differ
    report         what it found: report for a terminal, page with charts and naive in HTML, certificate in JSON

`definition` takes up what the project declares, and checks it. `repository` opens the Feast repository that ties all
together, as `configuration` says where things are; `registry_store` keeps its registry. `redis_server` runs a Redis
where a machine has none, and `read_only_server` Feast's feature server where others reach it. `files` and `command` are
the edges to the disk and to the person at the terminal, who may send `signals`; and `quick_feast` imports Feast.
"""
