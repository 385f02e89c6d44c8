"""The peer of compute_features.py: the same job in SQL, with the same exact arithmetic: whole cents, one division.

python -m benchmarks.duckdb_file_to_file TRANSACTIONS OUTPUT
"""

import sys

import duckdb

FEATURES = """
    SELECT user_id, event_timestamp, any_value(cents) / (any_value(rows) * 100.0) AS user_avg_3day_purchase_amount,
           any_value(total) AS user_total_transactions
    FROM (
        SELECT user_id, timestamp AS event_timestamp, sum(cent) OVER recent AS cents, count(*) OVER recent AS rows,
               count(*) OVER (PARTITION BY user_id ORDER BY timestamp RANGE UNBOUNDED PRECEDING) AS total
        FROM (SELECT user_id, timestamp, CAST(round(purchase_amount * 100) AS BIGINT) AS cent FROM {source})
        WINDOW recent AS (
            PARTITION BY user_id ORDER BY timestamp RANGE BETWEEN INTERVAL 3 DAY PRECEDING AND CURRENT ROW)
    ) GROUP BY user_id, event_timestamp ORDER BY user_id, event_timestamp
"""

if __name__ == "__main__":
    source, output = sys.argv[1:]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        features = FEATURES.format(source=f"'{source}'")
        connection.execute(f"COPY ({features}) TO '{output}' (FORMAT parquet)")
