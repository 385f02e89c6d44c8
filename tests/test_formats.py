"""Files as people have them: each is read as it is, with a declaration in features.py and nothing else."""

import ast
import bz2
import dataclasses
import gzip
import json
import lzma
import os
import re
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from feast import Entity, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.types import Bool, Bytes, Float32, Float64, Int32, Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from parity.compute.history import compute_here
from parity.compute.incremental import update
from parity.definition.declare import AggregatedFeatureView, DefinitionError, TransactionSource
from parity.definition.instants import UTC_MICROSECONDS
from parity.definition.reading import Reading
from parity.definition.table import Definition
from parity.edge.errors import UserError
from parity.edge.files import location, on_disk
from parity.proof.raw import raw_transactions
from parity.proof.raw_values import Parsers
from parity.transactions.read import read_part, read_transactions
from parity.transactions.times import localized
from parity.transactions.values import INSTANTS, to_type
from tests.conftest import ROOT
from tests.definition import aggregation, table


def definition_of(
    *keys: tuple[str, str], columns: dict | None = None, where: str | None = None, **source: object
) -> Definition:
    """The definition of a view as features.py declares it: ``keys`` with their types, and a count of each column."""
    columns = {"amount": Float64} if columns is None else columns
    entities = [Entity(name=name, join_keys=[name], value_type=ValueType[type]) for name, type in keys]
    schema = [Field(name=name, dtype=type) for name, type in columns.items()]
    view = AggregatedFeatureView(
        name="seen",
        entities=entities,
        ttl=timedelta(days=1),
        transactions=TransactionSource(name="raw", path="raw.csv", schema=schema, **source),
        aggregations=[Aggregation(name=f"count_{name}", function="count", column=name) for name in columns],
        source=FileSource(name="features", path="/nowhere/features.parquet", timestamp_field="event_timestamp"),
        where=where,
    )
    return view.definition


def rows(path: Path, definition: Definition) -> list[tuple]:
    """Read a file into rows: keys, the instant, and the columns by name."""
    table = read_transactions(path, definition)
    assert table.schema == definition.transactions
    assert not any(column.null_count for column in table.columns)
    found = [tuple(row.values()) for row in table.to_pylist()]
    assert read_by_oracle(path, definition) == sorted(map(plainly, found))
    return found


def read_by_oracle(path: Path, definition: Definition) -> list[str]:
    """What the oracle reads in a file, sorted."""
    is_float = [type == pa.float64() for type in definition.columns.values()]
    with raw_transactions(path, definition) as raw:
        keys = raw.keys.to_pylist()
        purchases = [(keys[n], p) for part in range(len(raw)) for n, some in raw.part(part).items() for p in some]
    values = [
        (*key.values(), p.time, *(float(v) if f else v for v, f in zip(p.values.values(), is_float, strict=True)))
        for key, p in purchases
    ]
    return sorted(map(plainly, values))


def plainly(row: tuple) -> str:
    return repr([value.isoformat() if isinstance(value, datetime) else value for value in row])


def refused(path: Path, definition: Definition) -> str:
    """The line that a file is refused with."""
    with pytest.raises(UserError) as error:
        read_transactions(path, definition)
    assert str(path) in str(error.value)
    if "no rows" not in str(error.value):
        with pytest.raises(UserError, match="the oracle can't read it"), raw_transactions(path, definition):
            pass
    return str(error.value)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


def clock(*parts: int) -> datetime:
    """What a clock shows, anywhere."""
    return utc(*parts).replace(tzinfo=None)


@pytest.fixture
def write(tmp_path):
    def file(name: str, content: str | bytes, encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode(encoding) if isinstance(content, str) else content)
        return path

    return file


class TestKnownFormats:
    """Well-known data sets and exports, each in the very format that it is published in."""

    @pytest.mark.smoke
    def test_uci_online_retail(self, write):
        path = write(
            "Online Retail.csv",
            "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\r\n"
            "536365,85123A,WHITE HANGING HEART T-LIGHT HOLDER,6,12/1/2010 8:26,2.55,17850,United Kingdom\r\n"
            '536414,22139,"CAF\xc9 ""SIGN"", RED",56,12/1/2010 11:52,0,,United Kingdom\r\n'
            "C536379,D,Discount,-1,12/1/2010 9:41,27.5,14527,United Kingdom\r\n",
            "latin-1",
        )
        definition = definition_of(
            ("CustomerID", "INT64"),
            columns={"Quantity": Int64, "UnitPrice": Float64, "StockCode": String},
            where="CustomerID IS NOT NULL",
            timestamp_field="InvoiceDate",
            timestamp_format="%m/%d/%Y %H:%M",
            encoding="latin-1",
        )
        assert rows(path, definition) == [
            (17850, utc(2010, 12, 1, 8, 26), 6, "85123A", 2.55),
            (14527, utc(2010, 12, 1, 9, 41), -1, "D", 27.5),
        ]

    def test_online_retail_ii(self, write):
        path = write(
            "online_retail_II.csv",
            "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country\n"
            "489434,85048,15CM CHRISTMAS GLASS BALL 20 LIGHTS,12,2009-12-01 07:45:00,6.95,13085.0,United Kingdom\n"
            "489464,21733,85123a mixed,-96,2009-12-01 10:52:00,0.0,,United Kingdom\n",
        )
        definition = definition_of(
            ("customer_id", "INT64"),
            columns={"Price": Float64},
            where="customer_id IS NOT NULL",
            timestamp_field="InvoiceDate",
            field_mapping={"Customer ID": "customer_id"},
            whole_with_point=True,
        )
        assert rows(path, definition) == [(13085, utc(2009, 12, 1, 7, 45), 6.95)]

    def test_ecommerce_behaviour(self, write):
        path = write(
            "2019-Oct.csv.gz",
            gzip.compress(
                b"event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
                b"2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,35.79,541312140,72d76fde\n"
                b"2019-10-01 00:00:01 UTC,purchase,3900821,2053013552326770905,appliances,aqua,33.20,554748717,9333\n"
            ),
        )
        for form in ("%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %H:%M:%S %Z"):
            definition = definition_of(
                ("user_id", "INT64"),
                columns={"price": Float64},
                where="event_type = 'purchase'",
                timestamp_field="event_time",
                timestamp_format=form,
            )
            assert rows(path, definition) == [(554748717, utc(2019, 10, 1, 0, 0, 1), 33.2)]

    def test_h_and_m(self, write):
        path = write(
            "transactions_train.csv",
            '"t_dat","customer_id","article_id","price","sales_channel_id"\n'
            '"2018-09-20","000058a12d5b43e67d225668fa1f8d618c13dc232df0cad8ffe7ad4a1091e318","0663713001",0.0508,2\n',
        )
        definition = definition_of(
            ("customer_id", "STRING"),
            ("article_id", "STRING"),
            columns={"price": Float64, "sales_channel_id": Int32},
            timestamp_field="t_dat",
        )
        customer = "000058a12d5b43e67d225668fa1f8d618c13dc232df0cad8ffe7ad4a1091e318"
        assert rows(path, definition) == [(customer, "0663713001", utc(2018, 9, 20), 0.0508, 2)]

    def test_olist(self, write):
        path = write(
            "olist_orders_dataset.csv",
            '"order_id","customer_id","order_status","order_purchase_timestamp","order_delivered_customer_date"\n'
            '"e481f51c","9ef432eb","delivered","2017-10-02 10:56:33","2017-10-10 21:25:13"\n'
            '"53cdb2fc","b0830fb4","invoiced","2018-07-24 20:41:37",""\n',
        )
        definition = definition_of(
            ("customer_id", "STRING"),
            columns={"order_status": String},
            timestamp_field="order_delivered_customer_date",
            time_zone="America/Sao_Paulo",
            where="order_delivered_customer_date IS NOT NULL",
        )
        assert rows(path, definition) == [("9ef432eb", utc(2017, 10, 11, 0, 25, 13), "delivered")]

    def test_paysim(self, write):
        path = write(
            "PS_20174392719_1491204439457_log.csv",
            "step,type,amount,nameOrig,oldbalanceOrg,newbalanceOrig,nameDest,oldbalanceDest,newbalanceDest,isFraud\n"
            "1,PAYMENT,9839.64,C1231006815,170136.0,160296.36,M1979787155,0.0,0.0,0\n"
            "743,CASH_OUT,850002.52,C1280323807,850002.52,0.0,C873221189,6510099.11,7360101.63,1\n",
        )
        definition = definition_of(
            ("nameOrig", "STRING"), timestamp_field="step", timestamp_format="hours", origin="2017-01-01"
        )
        assert rows(path, definition) == [
            ("C1231006815", utc(2017, 1, 1, 1), 9839.64),
            ("C1280323807", utc(2017, 1, 31, 23), 850002.52),
        ]

    def test_stripe(self, write):
        path = write(
            "unified_payments.csv",
            "id,Created date (UTC),Amount,Currency,Customer ID,Status\n"
            "ch_3MmlLrLkdIwHu7ix,2023-03-18 10:25,19.99,usd,cus_NffrFeUfNV2Hib,Paid\n"
            'ch_3MmlLrLkdIwHu7iy,2023-03-18 10:26,"1,019.99",usd,cus_NffrFeUfNV2Hib,Failed\n',
        )
        definition = definition_of(
            ("customer", "STRING"),
            columns={"amount": Float64},
            timestamp_field="created",
            field_mapping={"Created date (UTC)": "created", "Amount": "amount", "Customer ID": "customer"},
            thousands=",",
            where="Status = 'Paid'",
        )
        assert rows(path, definition) == [("cus_NffrFeUfNV2Hib", utc(2023, 3, 18, 10, 25), 19.99)]

    def test_stripe_events_as_json(self, write):
        event = {"id": "evt_1", "created": 1679135145, "customer": {"id": "cus_1"}, "data": {"amount": 1999}}
        path = write("charges.jsonl", "\n".join(json.dumps(event | {"id": f"evt_{n}"}) for n in range(2)))
        definition = definition_of(
            ("customer", "STRING"),
            columns={"cents": Int64},
            field_mapping={"customer.id": "customer", "data.amount": "cents"},
            timestamp_field="created",
            timestamp_format="seconds",
        )
        assert rows(path, definition) == [("cus_1", utc(2023, 3, 18, 10, 25, 45), 1999)] * 2

    def test_shopify(self, write):
        path = write(
            "orders_export.csv",
            "Name,Email,Financial Status,Paid at,Total\n"
            "#1001,bob@example.com,paid,2022-12-31 23:30:00 +0100,12.50\n"
            "#1002,amy@example.com,pending,,5.00\n",
        )
        definition = definition_of(
            ("email", "STRING"),
            columns={"Total": Float64},
            timestamp_field="Paid at",
            timestamp_format="%Y-%m-%d %H:%M:%S %z",
            field_mapping={"Email": "email", "Financial Status": "status"},
            where="status = 'paid'",
        )
        assert rows(path, definition) == [("bob@example.com", utc(2022, 12, 31, 22, 30), 12.5)]

    def test_excel_in_german(self, write):
        path = write(
            "Umsätze.csv",
            "sep=;\r\nKunde;Datum;Betrag\r\n0042;01.12.2010 08:26;1.234,25\r\n0042;01.07.2011 08:26;-0,25 €\r\n",
            "utf-16",
        )
        definition = definition_of(
            ("Kunde", "STRING"),
            columns={"Betrag": Float64},
            timestamp_field="Datum",
            timestamp_format="%d.%m.%Y %H:%M",
            time_zone="Europe/Berlin",
            delimiter=";",
            decimal=",",
            thousands=".",
            currency="€",
            encoding="utf-16",
        )
        assert rows(path, definition) == [
            ("0042", utc(2010, 12, 1, 7, 26), 1234.25),
            ("0042", utc(2011, 7, 1, 6, 26), -0.25),
        ]

    def test_a_bank_statement(self, write):
        path = write(
            "statement.txt",
            "My Bank plc\nAccount 12-34-56\n\n"
            "Posted\tIBAN\tAmount\n"
            "# opening balance 10,000.00\n"
            "03/Feb/24\tGB29NWBK60161331926819\t(1,250.00)\n"
            "04/Feb/24\tGB29NWBK60161331926819\t£20.00\n"
            "Total\t\t-1,230.00\n",
            "cp1252",
        )
        definition = definition_of(
            ("IBAN", "STRING"),
            columns={"Amount": Float64},
            timestamp_field="Posted",
            timestamp_format="%d/%b/%y",
            delimiter="\t",
            thousands=",",
            currency="£",
            negative="parentheses",
            encoding="cp1252",
            skip_rows=3,
            skip_footer=1,
            comment="#",
        )
        iban = "GB29NWBK60161331926819"
        assert rows(path, definition) == [(iban, utc(2024, 2, 3), -1250.0), (iban, utc(2024, 2, 4), 20.0)]

    def test_ibm_cards(self, write):
        path = write(
            "credit_card_transactions-ibm_v2.csv",
            "User,Card,Year,Month,Day,Time,Amount,Use Chip,Merchant Name,Is Fraud?\n"
            "0,0,2002,9,1,06:21,$134.09,Swipe Transaction,3527213246127876953,No\n"
            "0,1,2002,9,1,06:42,$-38.48,Swipe Transaction,-727612092139916043,No\n",
        )
        definition = definition_of(
            ("User", "INT64"),
            ("Card", "INT32"),
            columns={"Amount": Float64, "Merchant Name": Int64},
            timestamp_field="at",
            timestamp_columns=["Year", "Month", "Day", "Time"],
            timestamp_format="%Y %m %d %H:%M",
            currency="$",
        )
        assert rows(path, definition) == [
            (0, 0, utc(2002, 9, 1, 6, 21), 134.09, 3527213246127876953),
            (0, 1, utc(2002, 9, 1, 6, 42), -38.48, -727612092139916043),
        ]

    def test_cdnow(self, write):
        path = write(
            "CDNOW_sample.txt",
            " 00004 0001 19970101  2   29.33\n 00004 0001 19970118  2   29.73\n 00021 0002 19970101  3   63.34\n",
        )
        definition = definition_of(
            ("customer", "STRING"),
            columns={"spent": Float64, "cds": Int32},
            timestamp_field="date",
            timestamp_format="%Y%m%d",
            delimiter="whitespace",
            column_names=["customer", "sample_id", "date", "cds", "spent"],
        )
        assert rows(path, definition) == [
            ("00004", utc(1997, 1, 1), 2, 29.33),
            ("00004", utc(1997, 1, 18), 2, 29.73),
            ("00021", utc(1997, 1, 1), 3, 63.34),
        ]

    def test_instacart_has_no_time_and_is_refused_in_a_clear_line(self, write):
        path = write(
            "orders.csv",
            "order_id,user_id,eval_set,order_number,order_dow,order_hour_of_day,days_since_prior_order\n"
            "2539329,1,prior,1,2,08,\n",
        )
        error = refused(path, definition_of(("user_id", "INT64"), columns={"order_number": Float64}))
        assert "the column timestamp is missing; the columns are 'order_id', 'user_id'" in error
        assert "timestamp_field=" in error
        assert "without one nothing can be computed" in error


USER = ("user", "INT64")
LINES = "user,timestamp,amount\n7,2026-03-01T12:00:00Z,10.5\n"
NOON = utc(2026, 3, 1, 12)
READ = [(7, NOON, 10.5)]


class TestKeys:
    """A key of any type that Feast has for one; none is ever made of two."""

    TIME = ",2026-03-01T12:00:00Z,1"

    def read(self, write, type: str, *values: str, **source: object) -> list:
        path = write("keys.csv", "\n".join(["user,timestamp,amount", *(value + self.TIME for value in values), ""]))
        return [row[0] for row in rows(path, definition_of(("user", type), **source))]

    @pytest.mark.parametrize("type", ["INT32", "INT64"])
    def test_whole_numbers_are_as_written(self, write, type):
        assert self.read(write, type, "0", "-5", "2147483647", "-2147483648") == [0, -5, 2147483647, -2147483648]
        for value in ("007", "+7", "-0", "7.0", " 7", "1e3", "x"):
            with pytest.raises(UserError, match="written plainly"):
                self.read(write, type, "7", value)

    def test_whole_numbers_beyond_their_type_are_refused(self, write):
        for type, value, help in [
            ("INT32", "2147483648", "declare value_type=ValueType.INT64"),
            ("INT64", "9223372036854775808", "value_type=ValueType.STRING"),
        ]:
            with pytest.raises(UserError) as error:
                self.read(write, type, value)
            assert f"row 1 (line 2): user '{value}' is not a whole number that fits in {type[3:]} bits" in str(
                error.value
            )
            assert help in str(error.value)

    def test_with_a_point_they_are_whole_only_where_that_is_declared(self, write):
        assert self.read(write, "INT64", "17001.0", "7", "0.00", whole_with_point=True) == [17001, 7, 0]
        for value in ("7.5", "007.0", "7.", "-0.0", "1,7"):
            with pytest.raises(UserError):
                self.read(write, "INT64", value, whole_with_point=True)
        assert self.read(write, "INT64", '"17001,0"', whole_with_point=True, decimal=",") == [17001]

    def test_texts_are_as_written(self, write):
        texts = [
            "007",
            "7",
            "0007",
            "\u00e9",
            " 7 ",
            "NA",
            "null",
            "nan",
            "7.0",
            '"a,""b"""',
            "\U0001f600",
            "550e8400-e29b",
        ]
        read = [text.strip('"').replace('""', '"') if text.startswith('"') else text for text in texts]
        assert self.read(write, "STRING", *texts) == [*read[:9], 'a,"b"', *read[10:]]

    def test_booleans(self, write):
        assert self.read(write, "BOOL", "true", "FALSE", "True", "1", "0") == [True, False, True, True, False]
        for value in ("yes", "t", " true", "2"):
            with pytest.raises(UserError, match="is not true or false"):
                self.read(write, "BOOL", value)

    def test_bytes_are_those_of_the_text(self, write):
        assert self.read(write, "BYTES", "007", "\u00e9") == [b"007", "\u00e9".encode()]

    def test_instants_are_in_whole_seconds(self, write):
        texts = ["2026-03-01", "2026-03-01T01:00:00+01:00", "1969-12-31 23:59:59.000"]
        assert self.read(write, "UNIX_TIMESTAMP", *texts) == [
            utc(2026, 3, 1),
            utc(2026, 3, 1),
            utc(1969, 12, 31, 23, 59, 59),
        ]
        assert self.read(write, "UNIX_TIMESTAMP", "2026-03-01", time_zone="Asia/Tokyo") == [utc(2026, 2, 28, 15)]
        for value in ("2026-03-01T00:00:00.5", "1700000000"):
            with pytest.raises(UserError, match="is not an ISO 8601 date and time in whole seconds"):
                self.read(write, "UNIX_TIMESTAMP", value)

    def test_several(self, write):
        path = write("keys.csv", "product,user,timestamp,amount\n007,7,2026-03-01T12:00:00Z,10.5\n")
        assert rows(path, definition_of(USER, ("product", "STRING"))) == [(7, "007", NOON, 10.5)]

    def test_parquet_columns_of_each_type(self, tmp_path):
        path = tmp_path / "keys.parquet"
        columns = {
            "i": pa.array([7], pa.uint8()),
            "j": pa.array([-7], pa.int64()),
            "s": pa.array(["007"]).dictionary_encode(),
            "b": pa.array([True]),
            "x": pa.array([b"\x00\xff"]),
            "t": pa.array([NOON], pa.timestamp("ms", "Asia/Tokyo")),
            "timestamp": [NOON],
            "amount": [1.5],
        }
        pq.write_table(pa.table(columns), path)
        types = {"i": "INT32", "j": "INT64", "s": "STRING", "b": "BOOL", "x": "BYTES", "t": "UNIX_TIMESTAMP"}
        expected = [(7, -7, "007", True, b"\x00\xff", NOON, NOON, 1.5)]
        assert rows(path, definition_of(*types.items())) == expected

    @pytest.mark.parametrize(
        ("type", "values", "read"),
        [
            ("STRING", pa.array([7, 10**18]), ["7", str(10**18)]),
            ("STRING", pa.array([b"a", "\u00e9".encode()]), ["a", "\u00e9"]),
            ("STRING", pa.array(["a", ""], pa.large_string()), ["a", ""]),
            ("BYTES", pa.array(["a", "\u00e9"]), [b"a", "\u00e9".encode()]),
            ("BYTES", pa.array([b"aa", b"bb"], pa.binary(2)), [b"aa", b"bb"]),
            ("BOOL", pa.array([1, 0], pa.int8()), [True, False]),
            ("INT64", pa.array(["7", "-7"]), [7, -7]),
            ("UNIX_TIMESTAMP", pa.array([date(2026, 3, 1)] * 2), [utc(2026, 3, 1)] * 2),
        ],
        ids=str,
    )
    def test_parquet_columns_of_types_that_lose_nothing(self, tmp_path, type, values, read):
        path = tmp_path / "keys.parquet"
        pq.write_table(pa.table({"user": values, "timestamp": [NOON] * 2, "amount": [1.0] * 2}), path)
        assert [row[0] for row in rows(path, definition_of(("user", type)))] == read

    @pytest.mark.parametrize(
        ("type", "values"),
        [
            ("STRING", pa.array([b"\xff"])),
            ("STRING", pa.array([1.5])),
            ("STRING", pa.array([True])),
            ("INT32", pa.array([2**31])),
            ("INT64", pa.array([1.0])),
            ("INT64", pa.array(["007"])),
            ("BOOL", pa.array([2])),
            ("UNIX_TIMESTAMP", pa.array([1])),
            ("UNIX_TIMESTAMP", pa.array([1], pa.timestamp("ms"))),
            ("STRING", pa.array([["a"]])),
        ],
        ids=str,
    )
    def test_parquet_columns_that_are_no_such_keys(self, tmp_path, type, values):
        path = tmp_path / "keys.parquet"
        pq.write_table(pa.table({"user": values, "timestamp": [NOON], "amount": [1.0]}), path)
        assert "user" in refused(path, definition_of(("user", type)))


class TestColumns:
    """What features are made of: amounts, whole numbers, texts and booleans."""

    def read(self, write, type, *values: str, **source: object) -> list:
        path = write("c.tsv", "\n".join(["user\ttimestamp\tx", *(f"1\t2026-03-01\t{value}" for value in values), ""]))
        return [row[-1] for row in rows(path, definition_of(("user", "INT64"), columns={"x": type}, **source))]

    @pytest.mark.parametrize(
        ("options", "values", "read"),
        [
            ({}, ["1", "-1.5", "+2", ".5", "5.", "1e3", " 7 "], [1, -1.5, 2, 0.5, 5, 1000, 7]),
            ({"decimal": ","}, ["1,5", "-,5", "1e3", "7"], [1.5, -0.5, 1000, 7]),
            ({"decimal": ",", "thousands": "."}, ["1.234,5", "-1.234.567", "1234,5"], [1234.5, -1234567, 1234.5]),
            ({"thousands": ","}, ["1,234.5", "12,34,567.8", "0.5"], [1234.5, 1234567.8, 0.5]),
            ({"thousands": " "}, ["1 234", "1\u00a0234.5", "1\u202f234", "1\u2009234"], [1234, 1234.5, 1234, 1234]),
            ({"thousands": "'"}, ["1'234.5", "1\u2019234"], [1234.5, 1234]),
            ({"thousands": "\u00a0"}, ["1\u00a0234"], [1234]),
            ({"currency": "$"}, ["$5", "-$5", "$-5", "5$", "5 $", "$ 5", "5", "$1e2"], [5, -5, -5, 5, 5, 5, 5, 100]),
            ({"currency": "EUR", "decimal": ","}, ["1,5 EUR", "EUR 1,5", "EUR\u00a01"], [1.5, 1.5, 1]),
            ({"currency": "kr."}, ["5 kr.", "kr.5"], [5, 5]),
            ({"negative": "parentheses", "currency": "$"}, ["(5)", "($5.5)", "$(5)", "-5", "5"], [-5, -5.5, -5, -5, 5]),
            ({"negative": "trailing"}, ["5-", "5.50-", "-5", "5"], [-5, -5.5, -5, 5]),
        ],
    )  # fmt: skip
    def test_amounts(self, write, options, values, read):
        assert self.read(write, Float64, *values, **options) == read

    @pytest.mark.parametrize(
        ("options", "values"),
        [
            ({}, ["1,5", "$5", "(5)", "5-", "--5", "1_0", "0x10", "inf", "nan", "1e999", "\u0661", "1 234", "%5"]),
            ({"decimal": ","}, ["1.5", "1,5,5", ",", "1,e"]),
            ({"thousands": ","}, ["1,23", "1,2345", ",123", "1,,234", "1.234,5", "1234,567"]),
            ({"thousands": ".", "decimal": ","}, ["1.5", "1,234.5", "1.2.345"]),
            ({"thousands": " "}, ["1 23", "1\u3000234"]),
            ({"currency": "EUR"}, ["5E", "5E1EUR EUR"]),
            ({"currency": "$"}, ["$5$", "-$-5", "$", "\u20ac5", "$$5", "5 USD", "-"]),
            ({"negative": "parentheses"}, ["(-5)", "(5", "5)", "()", "-(5)", "5-"]),
            ({"negative": "trailing"}, ["-5-", "5--", "(5)", "5+"]),
            ({"negative": "trailing", "currency": "EUR"}, ["5 EUR--", "EUR 5 EUR-", "-5 EUR-", "5 EUR -"]),
        ],
    )  # fmt: skip
    def test_what_is_no_amount(self, write, options, values):
        for value in values:
            with pytest.raises(UserError, match="is not a finite number") as error:
                self.read(write, Float64, "5", value, **options)
            assert "row 2 (line 3)" in str(error.value)
            assert "1 of 2 rows is refused" in str(error.value)

    def test_whole_numbers(self, write):
        assert self.read(write, Int64, "5", " -7 ", "9223372036854775807") == [5, -7, 2**63 - 1]
        assert self.read(write, Int32, "5", "-2147483648") == [5, -(2**31)]
        assert self.read(write, Int64, "1,234", "9,223,372,036,854,775,807", thousands=",") == [1234, 2**63 - 1]
        assert self.read(write, Int64, "12.0", "1,234.00", thousands=",", whole_with_point=True) == [12, 1234]
        assert self.read(write, Int64, "12,0", decimal=",", whole_with_point=True) == [12]
        assert self.read(write, Int64, "$5", "(5)", currency="$", negative="parentheses") == [5, -5]

    @pytest.mark.parametrize("value", ["5.0", "1e3", "007", "+5", "9223372036854775808", "1,234", "a", "-0", "--5"])
    def test_what_is_no_whole_number(self, write, value):
        with pytest.raises(UserError, match="is not a whole number that fits in 64 bits"):
            self.read(write, Int64, "5", value)
        if value not in ("5.0", "1,234"):
            with pytest.raises(UserError, match="is not a whole number"):
                self.read(write, Int64, "5", value, whole_with_point=True, thousands=",")

    def test_an_int32_beyond_its_range_is_refused(self, write):
        with pytest.raises(UserError, match=r"fits in 32 bits.*Field\(name=\"x\", dtype=Int64\)"):
            self.read(write, Int32, "2147483648")

    def test_texts_and_booleans(self, write):
        assert self.read(write, String, "NA", "007", " a ", "\u00e9") == ["NA", "007", " a ", "\u00e9"]
        assert self.read(write, Bool, "true", "0", "FALSE") == [True, False, False]

    @pytest.mark.parametrize(
        ("type", "values", "read"),
        [
            (Float64, pa.array([Decimal("0.1234567890123456789")]), float("0.1234567890123456789")),
            (Float64, pa.array([2**53]), float(2**53)),
            (Float64, pa.array(["1.5"]), 1.5),
            (Int64, pa.array([2**63 - 1], pa.uint64()), 2**63 - 1),
            (Int64, pa.array(["5"]), 5),
            (Int32, pa.array([5], pa.int64()), 5),
            (String, pa.array([5]), "5"),
            (Bool, pa.array([1]), True),
        ],
        ids=str,
    )
    def test_parquet(self, tmp_path, type, values, read):
        path = tmp_path / "c.parquet"
        pq.write_table(pa.table({"user": [1], "timestamp": [NOON], "x": values}), path)
        assert rows(path, definition_of(USER, columns={"x": type})) == [(1, NOON, read)]

    def test_parquet_floats_are_whole_numbers_where_that_is_declared(self, tmp_path):
        path = tmp_path / "c.parquet"
        definition = definition_of(USER, columns={"x": Int64}, whole_with_point=True)
        for values in (pa.array([5.0, -(2.0**53)]), pa.array([Decimal("5.0"), Decimal(-(2**53))])):
            pq.write_table(pa.table({"user": [1.0, 2.0], "timestamp": [NOON] * 2, "x": values}), path)
            assert [row[-1] for row in rows(path, definition)] == [5, -(2**53)]
        for value in (5.5, 2.0**53 + 2, float("inf")):
            pq.write_table(pa.table({"user": [1], "timestamp": [NOON], "x": [value]}), path)
            assert "is not a whole number" in refused(path, definition)
        assert "whole_with_point=True" in refused(path, definition_of(USER, columns={"x": Int64}))


class TestNulls:
    """Null only where it is declared or empty, and only in rows that the condition leaves out."""

    def test_an_empty_value_is_null_for_every_type_and_no_other_text_is(self, write):
        path = write("n.csv", "user,timestamp,amount,name\n,2026-03-01,,\n7,2026-03-01,5,NA\n")
        columns = {"amount": Float64, "name": String}
        kept = definition_of(USER, columns=columns, where="user IS NOT NULL")
        assert rows(path, kept) == [(7, utc(2026, 3, 1), 5.0, "NA")]
        error = refused(path, definition_of(USER, columns=columns))
        assert "row 1 (line 2): user is null. 1 of 2 rows is refused." in error
        assert 'where="user IS NOT NULL" in seen' in error

    @pytest.mark.parametrize(("type", "column"), [("INT64", Float64), ("STRING", String), ("BYTES", Int64)])
    def test_declared_texts_are_null_to_the_letter(self, write, type, column):
        path = write("n.csv", "user,timestamp,x\nNA,2026-03-01,\\N\n7,2026-03-01,5\n,2026-03-01,5\n")
        definition = definition_of(
            ("user", type), columns={"x": column}, where="x IS NOT NULL", null_values=["NA", "\\N"]
        )
        assert "row 3 (line 4): user is null. 1 of 3 rows is refused." in refused(path, definition)
        path.write_text(path.read_text().replace(",2026-03-01,5\n,", ",2026-03-01,5\n8,").replace("NA,", "na,"))
        if type == "INT64":
            assert "user 'na' is not a whole number" in refused(path, definition)
        else:
            assert len(rows(path, definition)) == 2

    def test_a_null_is_shown_with_three_of_its_rows_and_the_condition_that_there_is(self, write):
        path = write("n.csv", "user,timestamp,amount\n" + "7,,5\n" * 5 + "7,2026-03-01,5\n")
        error = refused(path, definition_of(USER, where="amount > 0"))
        assert "row 1 (line 2): timestamp is null, and so it is in row 2 (line 3) and row 3 (line 4)." in error
        assert "5 of 6 rows are refused" in error
        assert 'where="(amount > 0) AND timestamp IS NOT NULL"' in error

    def test_a_value_that_can_not_be_read_is_refused_in_rows_that_are_left_out_too(self, write):
        path = write("n.csv", "user,timestamp,amount\n7,2026-03-01,5\nx,2026-03-01,-5\n")
        assert "row 2 (line 3): user 'x'" in refused(path, definition_of(USER, where="amount > 0"))

    def test_of_the_timestamp_and_of_bytes_it_can_be_asked_whether_they_are_null_and_no_more(self, write):
        path = write("n.csv", "user,timestamp,amount\n7,,5\n,2026-03-01,5\n7,2026-03-01,5\n")
        definition = definition_of(("user", "BYTES"), where="timestamp IS NOT NULL AND user IS NOT NULL")
        assert rows(path, definition) == [(b"7", utc(2026, 3, 1), 5.0)]
        for where in ("timestamp > '2026-01-01'", "timestamp", "timestamp = 5", "user = '7'"):
            with pytest.raises(DefinitionError, match="which can't be compared"):
                definition_of(("user", "BYTES"), where=where)

    def test_only_rows_that_meet_the_condition_are_read(self, write):
        path = write(
            "n.csv", "user,timestamp,amount,status\n1,2026-03-01,5,paid\n2,2026-03-01,5,open\n3,2026-03-01,5,\n"
        )
        assert [row[0] for row in rows(path, definition_of(USER, where="status = 'paid'"))] == [1]
        assert [row[0] for row in rows(path, definition_of(USER, where="status IS NULL"))] == [3]
        assert [row[0] for row in rows(path, definition_of(USER, where="status <> 'paid'"))] == [2]
        assert "it has no rows that meet the condition" in refused(path, definition_of(USER, where="status = 'x'"))
        assert read_part(path, definition_of(USER, where="status = 'x'")).num_rows == 0

    def test_null_and_nan_of_parquet_are_null(self, tmp_path):
        path = tmp_path / "n.parquet"
        table = {"user": [1, 2, 3], "timestamp": [NOON] * 3, "amount": [float("nan"), None, 1.0]}
        pq.write_table(pa.table(table), path)
        assert [row[0] for row in rows(path, definition_of(USER, where="amount IS NOT NULL"))] == [3]
        assert "row 1: amount is null, and so it is in row 2. 2 of 3 rows are refused." in refused(
            path, definition_of(USER)
        )
        pq.write_table(pa.table(table | {"user": ["1", "NA", None]}), path)
        definition = definition_of(("user", "STRING"), where="amount IS NULL", null_values=["NA"])
        assert "row 2: user is null" in refused(path, definition)


FORMATS = ["%d.%m.%Y %H:%M:%S.%f", "%Y%m%d%H%M%S%f", "%b %d %Y %I:%M:%S %p", "%j of %Y, %H.%M", "%A, %d. %B %Y"]
FORMATS.append("%y/%m/%d %H")
OFFSETS = ["%Y-%m-%dT%H:%M:%S%z", "%a, %d %b %Y %H:%M:%S %z", "%Y-%m-%d %H:%M %Z", "%Z%Y", "%A %d %B %Y%z"]
ZONES = [UTC, *(timezone(timedelta(seconds=offset)) for offset in (3600, -5400, 1, 86_399))]
UNITS = {"days": 86_400_000_000, "hours": 3_600_000_000, "minutes": 60_000_000}


class TestTimestamps:
    def read(self, write, *values: str, **source: object) -> list:
        lines = ["user;timestamp;amount", *(f"1;{value};5" for value in values), ""]
        definition = definition_of(USER, delimiter=";", **source)
        return [row[1] for row in rows(write("t.csv", "\n".join(lines)), definition)]

    @pytest.mark.parametrize(
        ("form", "text", "instant"),
        [
            ("%m/%d/%Y %H:%M", "12/1/2010 8:26", utc(2010, 12, 1, 8, 26)),
            ("%d.%m.%y", "01.12.10", utc(2010, 12, 1)),
            ("%d.%m.%y", "01.12.69", utc(1969, 12, 1)),
            ("%d.%m.%y", "01.12.68", utc(2068, 12, 1)),
            ("%Y%m%d", "20251201", utc(2025, 12, 1)),
            ("%Y%m%d%H%M%S", "20251201082600", utc(2025, 12, 1, 8, 26)),
            ("%Y-%m-%d %H:%M:%S.%f", "2010-12-01 8:26:00.5", utc(2010, 12, 1, 8, 26, 0, 500000)),
            ("%d %B %Y, %I:%M %p", "1 december 2010, 12:05 am", utc(2010, 12, 1, 0, 5)),
            ("%d-%b-%y %I.%M.%S.%f %p", "01-DEC-10 12.05.00.000001 PM", utc(2010, 12, 1, 12, 5, 0, 1)),
            ("%a, %d %b %Y %H:%M:%S %z", "Wed, 01 Dec 2010 08:26:00 +0100", utc(2010, 12, 1, 7, 26)),
            ("%A %d %b %Y", "Monday 01 Dec 2010", utc(2010, 12, 1)),
            ("%Y-%m-%dT%H:%M:%S%z", "2010-12-01T08:26:00-08:00", utc(2010, 12, 1, 16, 26)),
            ("%Y-%m-%dT%H:%M:%S%z", "2010-12-01T08:26:00Z", utc(2010, 12, 1, 8, 26)),
            ("%Y-%m-%d %H:%M:%S %Z", "2010-12-01 08:26:00 UTC", utc(2010, 12, 1, 8, 26)),
            ("%Y-%j", "2012-366", utc(2012, 12, 31)),
            ("%Y", "2012", utc(2012, 1, 1)),
            ("%d/%b/%Y:%H:%M:%S %z", "10/Oct/2000:13:55:36 -0700", utc(2000, 10, 10, 20, 55, 36)),
            ("%m/%d/%Y %I:%M %p", "12/1/2010 \u202f8:26\u202fPM", utc(2010, 12, 1, 20, 26)),
            ("100%% on %Y-%m-%d", "100% on 2010-12-01", utc(2010, 12, 1)),
            ("%Y.%m.%d (%H)", "2010.12.01 (8)", utc(2010, 12, 1, 8)),
            ("%Z%Y", "utc2010", utc(2010, 1, 1)),
        ],
    )
    def test_a_format(self, write, form, text, instant):
        assert self.read(write, text, timestamp_format=form) == [instant]

    @pytest.mark.parametrize(
        ("form", "text"),
        [
            ("%m/%d/%Y", "13/1/2010"),
            ("%m/%d/%Y", "2/30/2010"),
            ("%m/%d/%Y", "2/29/2011"),
            ("%m/%d/%Y", "0/1/2010"),
            ("%m/%d/%Y", " 1/1/2010"),
            ("%m/%d/%Y", "1/1/2010 "),
            ("%m/%d/%Y", "1/1/0000"),
            ("%m/%d/%Y", "\u0661/1/2010"),
            ("%m/%d/%Y %H:%M", "1/1/2010 24:00"),
            ("%m/%d/%Y %H:%M:%S", "1/1/2010 1:00:60"),
            ("%m/%d/%Y %I:%M %p", "1/1/2010 13:00 PM"),
            ("%Y-%j", "2011-366"),
            ("%Y-%m-%d %H:%M:%S.%f", "2010-12-01 08:26:00.1234567"),
            ("%Y-%m-%d %H:%M:%S%z", "2010-12-01 08:26:00+24:00"),
            ("%d.%m.%Y", "1x12x2010"),
            ("%Y-%m-%d %H:%M:%S%z", "2010-12-01 08:26:00z"),
            ("%Y-%m-%d %H:%M:%S%z", "2010-12-01 08:26:00+01:0020"),
            ("%Y-%m-%d %H:%M:%S%z", "2010-12-01 08:26:00+0100:20"),
            ("%A %d %B %Y", "Tue\u017fday 1 June 2010"),
            ("%Y-%m-%d %H:%M:%S", "2016-12-31 23:59:60"),
            ("%Y%m%d%H%M%S%f", "9990101000006000000"),
        ],
    )
    def test_what_a_format_does_not_take(self, write, form, text):
        with pytest.raises(UserError, match=r"row 1 \(line 2\): timestamp .* is not a date and time of the form"):
            self.read(write, text, timestamp_format=form)

    @given(
        st.datetimes(clock(1, 1, 2), clock(9999, 12, 30)),
        st.sampled_from(FORMATS),
        st.data(),
    )
    def test_a_format_is_read_as_python_reads_it(self, instant, form, data):
        text = instant.strftime(form)
        if data.draw(st.booleans()):
            place, sign = data.draw(st.integers(0, len(text) - 1)), data.draw(st.sampled_from("0123459 ./:aApPmM"))
            text = text[:place] + sign + text[place + 1 :]
        try:
            expected = datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            expected = None
        if "%j" in form and expected and expected.strftime("%j") not in text:
            expected = None  # Python makes the first day of the next year of a day 366 that there is not
        assert to_type(pa.array([text]), INSTANTS, Reading(timestamp_format=form), False).to_pylist() == [expected]

    @pytest.mark.parametrize(
        ("unit", "origin", "text", "instant"),
        [
            ("seconds", None, "1700000000", utc(2023, 11, 14, 22, 13, 20)),
            ("seconds", None, "1700000000.25", utc(2023, 11, 14, 22, 13, 20, 250000)),
            ("seconds", None, "1700000000.2500000", utc(2023, 11, 14, 22, 13, 20, 250000)),
            ("seconds", None, "-0.000001", utc(1969, 12, 31, 23, 59, 59, 999999)),
            ("milliseconds", None, "1700000000000.125", utc(2023, 11, 14, 22, 13, 20, 125)),
            ("microseconds", None, "1700000000000001", utc(2023, 11, 14, 22, 13, 20, 1)),
            ("nanoseconds", None, "1700000000000001000", utc(2023, 11, 14, 22, 13, 20, 1)),
            ("nanoseconds", None, "253402300799999999000", datetime.max.replace(tzinfo=UTC)),
            ("hours", "2017-01-01", "743", utc(2017, 1, 31, 23)),
            ("hours", "2017-01-01T00:00:00+01:00", "0.5", utc(2016, 12, 31, 23, 30)),
            ("minutes", "2017-01-01", "1.5", utc(2017, 1, 1, 0, 1, 30)),
            ("days", "1899-12-30", "44927.5", utc(2023, 1, 1, 12)),
            ("days", "1899-12-30", "44927.351388888889", utc(2023, 1, 1, 8, 26)),
            ("days", None, "-1", utc(1969, 12, 31)),
        ],
    )
    def test_numbers_count_from_an_origin(self, write, unit, origin, text, instant):
        assert self.read(write, text, timestamp_format=unit, origin=origin) == [instant]

    @pytest.mark.parametrize(
        ("unit", "text"),
        [
            ("seconds", "1700000000.1234567"),
            ("milliseconds", "0.0001"),
            ("microseconds", "0.5"),
            ("nanoseconds", "1"),
            ("nanoseconds", "1000.5"),
            ("seconds", "1e9"),
            ("seconds", " 1"),
            ("seconds", ".5"),
            ("seconds", "1,5"),
            ("seconds", "2026-03-01"),
            ("seconds", "253402300800"),
            ("days", "4000000"),
            ("days", "99999999999999999999"),
            ("days", "1.0000000000000000001"),
        ],
    )
    def test_numbers_that_are_finer_or_further_than_an_instant(self, write, unit, text):
        with pytest.raises(UserError, match=f"is not a number of {unit}"):
            self.read(write, text, timestamp_format=unit)

    @given(st.decimals(-700_000, 2_900_000, places=15), st.sampled_from(["days", "hours", "minutes"]))
    def test_days_hours_and_minutes_are_rounded_half_to_even_exactly(self, count, unit):
        microseconds = round(Fraction(count) * UNITS[unit])
        found = to_type(pa.array([f"{count:f}"]), INSTANTS, Reading(timestamp_format=unit), False)
        assert found.cast(pa.int64()).to_pylist() == [microseconds]

    def test_a_decimal_comma_holds_for_them_too(self, write):
        assert self.read(write, "1,5", timestamp_format="seconds", decimal=",") == [utc(1970, 1, 1, 0, 0, 1, 500000)]

    def test_a_zone_is_that_of_times_without_an_offset(self, write):
        texts = ["2026-07-01 12:00", "2026-01-01", "2026-07-01T12:00:00Z", "2026-10-25T01:59:59.999999"]
        assert self.read(write, *texts, time_zone="Europe/Berlin") == [
            utc(2026, 7, 1, 10),
            utc(2025, 12, 31, 23),
            utc(2026, 7, 1, 12),
            utc(2026, 10, 24, 23, 59, 59, 999999),
        ]
        assert self.read(write, "1.7.2026 12:00", timestamp_format="%d.%m.%Y %H:%M", time_zone="Asia/Kathmandu") == [
            utc(2026, 7, 1, 6, 15)
        ]

    @pytest.mark.parametrize(
        "text", ["2026-03-29 02:00", "2026-03-29 02:59:59.999999", "2026-10-25 02:00", "2026-10-25 02:30"]
    )
    def test_a_time_that_its_clocks_skip_or_show_twice_is_refused(self, write, text):
        with pytest.raises(UserError) as error:
            self.read(write, "2026-07-01 12:00", text, time_zone="Europe/Berlin")
        assert f"row 2 (line 3): timestamp '{text}' is not an ISO 8601 date and time" in str(error.value)
        assert "The clocks of Europe/Berlin skip these times, or show them twice" in str(error.value)
        assert "1 of 2 rows is refused" in str(error.value)
        self.read(write, "2026-03-29 03:00", "2026-10-25 03:00", "2026-10-25 01:59", time_zone="Europe/Berlin")

    def test_a_midnight_that_its_clocks_skip_is_refused(self, write):
        with pytest.raises(UserError, match="America/Sao_Paulo skip"):
            self.read(write, "2018-11-04", time_zone="America/Sao_Paulo")

    @given(
        st.datetimes(clock(1850, 1, 1), clock(2100, 1, 1)),
        st.sampled_from(
            ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca"]
        ),
        st.integers(-8000, 8000),
    )
    def test_zones_are_as_python_has_them(self, near, zone, seconds):
        changes = [clock(2026, 3, 29, 2), clock(2026, 10, 25, 2), clock(2011, 12, 30), clock(1945, 4, 2, 2)]
        for shown in [near, *(change + timedelta(seconds=seconds) for change in changes)]:
            local = shown.replace(tzinfo=ZoneInfo(zone))
            once = local.utcoffset() == local.replace(fold=1).utcoffset()
            expected = [local.astimezone(UTC)] if once else [None]
            assert localized(pa.array([shown], pa.timestamp("us")), zone).to_pylist() == expected

    def test_days_count_what_clocks_show_and_seconds_what_passes(self, write):
        berlin = {"time_zone": "Europe/Berlin", "origin": "2026-03-28"}
        assert self.read(write, "2", timestamp_format="days", **berlin) == [utc(2026, 3, 29, 22)]
        assert self.read(write, "48", timestamp_format="hours", **berlin) == [utc(2026, 3, 29, 23)]

    @pytest.mark.parametrize(
        ("unit", "text"),
        [
            ("hours", "490152"),
            ("minutes", "29409120"),
            ("seconds", "1764547200"),
            ("milliseconds", "1764547200000"),
            ("microseconds", "1764547200000000"),
            ("nanoseconds", "1764547200000000000"),
        ],
    )
    @pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Kiritimati"])
    def test_units_without_an_origin_count_from_1970_in_utc_whatever_the_zone(self, write, unit, text, zone):
        assert self.read(write, text, timestamp_format=unit, time_zone=zone) == [utc(2025, 12, 1)]

    def test_days_without_an_origin_are_midnights_of_the_zone(self, write):
        assert self.read(write, "20423", timestamp_format="days", time_zone="Asia/Tokyo") == [utc(2025, 11, 30, 15)]

    def test_several_columns(self, write):
        path = write("t.csv", "user,Date,Time,amount\n1,01/02/2026,8:05,5\n1,01/02/2026,,5\n")
        columns = {"timestamp_columns": ["Date", "Time"], "timestamp_format": "%d/%m/%Y %H:%M"}
        definition = definition_of(USER, **columns, where="timestamp IS NOT NULL")
        assert rows(path, definition) == [(1, utc(2026, 2, 1, 8, 5), 5.0)]
        assert "row 2 (line 3): timestamp is null" in refused(path, definition_of(USER, **columns))
        path.write_text(path.read_text().replace("8:05", "25:05"))
        assert "timestamp '01/02/2026 25:05' is not a date and time of the form" in refused(path, definition)

    @pytest.mark.parametrize(
        ("values", "options", "instant"),
        [
            (pa.array(["12/1/2010 8:26"]), {"timestamp_format": "%m/%d/%Y %H:%M"}, utc(2010, 12, 1, 8, 26)),
            (pa.array(["2010-12-01"]).dictionary_encode(), {}, utc(2010, 12, 1)),
            (pa.array([20101201]), {"timestamp_format": "%Y%m%d"}, utc(2010, 12, 1)),
            (pa.array([1700000000]), {"timestamp_format": "seconds"}, utc(2023, 11, 14, 22, 13, 20)),
            (pa.array([1700000000.25]), {"timestamp_format": "seconds"}, utc(2023, 11, 14, 22, 13, 20, 250000)),
            (pa.array([1.7e18]), {"timestamp_format": "nanoseconds"}, utc(2023, 11, 14, 22, 13, 20)),
            (pa.array([Decimal("1.50")]), {"timestamp_format": "days"}, utc(1970, 1, 2, 12)),
            (pa.array([1e-3]), {"timestamp_format": "milliseconds"}, utc(1970, 1, 1, 0, 0, 0, 1)),
            (pa.array([date(2026, 7, 1)]), {"time_zone": "Asia/Tokyo"}, utc(2026, 6, 30, 15)),
            (pa.array([clock(2026, 7, 1)]), {"time_zone": "Asia/Tokyo"}, utc(2026, 6, 30, 15)),
            (pa.array([utc(2026, 7, 1)]), {"time_zone": "Asia/Tokyo"}, utc(2026, 7, 1)),
            (pa.array([utc(2026, 7, 1)]), {"timestamp_format": "%Y"}, utc(2026, 7, 1)),
        ],
        ids=str,
    )
    def test_parquet_columns(self, tmp_path, values, options, instant):
        path = tmp_path / "t.parquet"
        pq.write_table(pa.table({"user": [1], "timestamp": values, "amount": [5.0]}), path)
        assert rows(path, definition_of(USER, **options)) == [(1, instant, 5.0)]

    def test_several_parquet_columns(self, tmp_path):
        path = tmp_path / "t.parquet"
        parts = {"y": pa.array([2010], pa.int16()), "m": [12], "d": [1.0], "t": [time(8, 26)]}
        pq.write_table(pa.table({"user": [1], "amount": [5.0]} | parts), path)
        definition = definition_of(USER, timestamp_columns=list("ymdt"), timestamp_format="%Y %m %d %H:%M:%S.%f")
        assert rows(path, definition) == [(1, utc(2010, 12, 1, 8, 26), 5.0)]

    def test_parquet_numbers_are_refused_where_nothing_says_what_they_count(self, tmp_path):
        path = tmp_path / "t.parquet"
        pq.write_table(pa.table({"user": [1], "timestamp": [1700000000], "amount": [5.0]}), path)
        assert 'declare timestamp_format="seconds"' in refused(path, definition_of(USER))

    @pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
    def test_the_zone_of_the_machine_plays_no_part(self, write, monkeypatch, zone):
        monkeypatch.setenv("TZ", zone)
        texts = ["2026-03-08 02:30", "2026-03-08"]
        assert self.read(write, *texts) == [utc(2026, 3, 8, 2, 30), utc(2026, 3, 8)]
        assert self.read(write, "8.3.2026", timestamp_format="%d.%m.%Y") == [utc(2026, 3, 8)]


AMOUNTS = st.builds(
    Reading,
    decimal=st.sampled_from(".,"),
    thousands=st.sampled_from(["", ",", ".", "'", " "]),
    currency=st.sampled_from(["", "$", "EUR", "kr.", "%", "¤ x", "e", "E", "(", ")", "\u2019"]),
    negative=st.sampled_from(["leading", "trailing", "parentheses"]),
    whole_with_point=st.booleans(),
).filter(lambda reading: not list(reading.faults()))
EPOCHS = st.builds(
    Reading,
    timestamp_format=st.sampled_from(["days", "hours", "minutes", "seconds", "milliseconds", "nanoseconds"]),
    decimal=st.sampled_from(".,"),
    time_zone=st.sampled_from([None, "Europe/Berlin"]),
    origin=st.sampled_from([None, "2000-01-01"]),
)
SPECIAL = st.sampled_from(
    ["z", "Z", "0", "9", " ", ":", "-", "+", "\u00a0", "UTC", "gmt", "\u017f", "\u212a", ".", "T", ""]
)


class TestTwoReaders:
    """The pipeline and the oracle, which share no code, take the same texts, for the same values."""

    def same(self, text: str, reading: Reading, type: pa.DataType | str, is_key: bool = False) -> None:
        of_oracle = UTC_MICROSECONDS if type == INSTANTS else type
        try:
            found = Parsers(reading).of(of_oracle, is_key)(text)
        except (ValueError, OverflowError):
            found = None
        found = float(found) if found is not None and type == pa.float64() else found
        assert to_type(pa.array([text], pa.string()), type, reading, is_key).to_pylist() == [found]

    @settings(max_examples=500)
    @given(AMOUNTS, st.data())
    def test_of_numbers(self, reading, data):
        around = st.sampled_from(["", "", "-", "+", "(", ")", " ", "\u00a0", reading.currency, reading.currency])
        point, groups = (st.sampled_from(["", sign, sign, "."]) for sign in (reading.decimal, reading.thousands))
        parts = [around] * 3 + [st.sampled_from(["5", "0", "12", ""]), groups, st.sampled_from(["", "234", "1234"])]
        parts += [point, st.sampled_from(["", "", "0", "00", "25"]), st.sampled_from(["", "", "e3", "E-2", "e"])]
        text = "".join(data.draw(st.tuples(*parts, *[around] * 3)))
        for type, is_key in ((pa.float64(), False), (pa.int64(), False), (pa.int32(), True)):
            self.same(text, reading, type, is_key)

    @given(
        EPOCHS, st.lists(st.sampled_from(["5", "0", "1764547200", "000", "+", "-", ",", ".", " ", "e3"]), max_size=5)
    )
    def test_of_epochs(self, reading, parts):
        self.same("".join(["1", *parts]), reading, INSTANTS)
        self.same("".join([*parts, "0"]), reading, INSTANTS)

    @given(
        st.datetimes(clock(1, 1, 2), clock(9999, 12, 30), timezones=st.sampled_from(ZONES)),
        st.sampled_from([None, *FORMATS, *OFFSETS]),
        st.data(),
    )
    def test_of_times(self, instant, form, data):
        text = instant.isoformat(data.draw(st.sampled_from("T "))) if form is None else instant.strftime(form)
        for _ in range(data.draw(st.integers(0, 2))):
            place, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 1))
            text = text[:place] + data.draw(SPECIAL) + text[place + length :]
        self.same(text, Reading(timestamp_format=form), INSTANTS)


class TestText:
    """Delimiters, quotes, encodings, and lines that are no rows."""

    def check(self, write, content: str | bytes, name: str = "t.csv", coded: str = "utf-8", **source) -> None:
        assert rows(write(name, content, coded), definition_of(USER, **source)) == READ

    @pytest.mark.parametrize("delimiter", [";", "\t", "|", ":", " ", "\x01", "~", "¦", "§", "·"])
    def test_any_character_is_a_delimiter(self, write, delimiter):
        content = LINES.replace(",", delimiter).replace("T12:00:00Z", "T12").replace("note", "")
        self.check(write, content, delimiter=delimiter)

    def test_a_delimiter_in_quotes_is_none_whatever_it_is(self, write):
        for delimiter in (";", "¦"):
            content = 'name;timestamp;amount\n"a;""b";2026-03-01T12:00:00Z;1\n'.replace(";", delimiter)
            path = write("t.csv", content)
            found = rows(path, definition_of(("name", "STRING"), delimiter=delimiter))
            assert found == [(f'a{delimiter}"b', NOON, 1.0)]

    @pytest.mark.parametrize(
        "content",
        [
            "user  timestamp             amount\n7     2026-03-01T12:00:00Z    10.5\n",
            "  user timestamp\tamount  \r\n\r\n   \r\n 7 \t 2026-03-01T12:00:00Z 10.5",
        ],
    )
    def test_blanks_of_any_number(self, write, content):
        self.check(write, content, delimiter="whitespace")

    def test_a_tsv_file_has_tabs_unless_something_else_is_declared(self, write):
        self.check(write, LINES.replace(",", "\t"), "t.tsv")
        self.check(write, gzip.compress(LINES.replace(",", "\t").encode()), "t.TSV.gz")
        self.check(write, LINES.replace(",", ";"), "t.tsv", delimiter=";")
        self.check(write, LINES, "t.txt")

    def test_another_quote_or_none(self, write):
        content = "user,timestamp,amount\n7,2026-03-01T12:00:00Z,'10.5'\n"
        self.check(write, content, quote="'")
        assert "amount \"'10.5'\" is not a finite number" in refused(write("t.csv", content), definition_of(USER))
        self.check(write, LINES.replace("user,", 'user,5" tv,').replace("7,", '7,"open,'), quote="")

    @pytest.mark.parametrize(
        "encoding",
        ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "mac-roman", "cp437", "utf-7"],
    )
    def test_any_encoding(self, write, encoding):
        content = 'café,timestamp,amount\n"é,\n€",2026-03-01T12:00:00Z,10.5\n'
        content = content.replace("€", "$") if encoding in ("latin-1", "mac-roman", "cp437") else content
        path = write("t.csv", content, encoding)
        definition = definition_of(("name", "STRING"), field_mapping={"café": "name"}, encoding=encoding)
        assert [row[0] for row in rows(path, definition)] == [content.split('"')[1]]

    @pytest.mark.parametrize("encoding", ["shift_jis", "gb18030", "euc-kr", "big5", "koi8-r", "iso8859-2"])
    def test_encodings_of_other_scripts(self, write, encoding):
        name = {"koi8-r": "жизнь", "iso8859-2": "łódź", "euc-kr": "한국"}.get(encoding, "日本")
        path = write("t.csv", LINES.replace("user", "name").replace("7,", f"{name},"), encoding)
        assert [row[0] for row in rows(path, definition_of(("name", "STRING"), encoding=encoding))] == [name]

    def test_what_an_encoding_can_not_decode_is_refused_by_its_line(self, write):
        path = write("t.csv", LINES.encode() + b"caf\xe9,2026-03-01,1\n")
        error = refused(path, definition_of(("user", "STRING")))
        assert 'line 3: the byte 0xe9 is not UTF-8. If it is Western European text, declare encoding="latin-1"' in error
        assert 'declare encoding="latin-1"' in error
        path = write("t.csv", LINES.encode("shift_jis") + b"\x81\n")
        assert "line 3: the byte 0x81 is not shift_jis" in refused(path, definition_of(USER, encoding="shift_jis"))
        path = write("t.csv", LINES.encode("utf-16")[:-1])
        assert "is not utf-16" in refused(path, definition_of(USER, encoding="utf-16"))

    def test_lines_that_are_no_rows(self, write):
        content = 'My "shop\n\nuser,timestamp,amount\n# 1\n7,2026-03-01T12:00:00Z,10.5\n\n#\nTotal,10\nbye\n'
        self.check(write, content, skip_rows=2, skip_footer=2, comment="#")
        self.check(write, content.replace("\n", "\r\n"), skip_rows=2, skip_footer=2, comment="#")
        self.check(write, content.replace("\n", "\r"), skip_rows=2, skip_footer=2, comment="#")
        self.check(
            write,
            content.replace("#", "//"),
            "t.txt",
            "utf-16",
            skip_rows=2,
            skip_footer=2,
            comment="//",
            encoding="utf-16",
        )

    @pytest.mark.parametrize("note", ["sep=,", "SEP=,"])
    def test_a_note_of_the_delimiter(self, write, note):
        self.check(write, f"\ufeff{note}\r\n{LINES}")
        self.check(write, f"{note}\n{LINES}".replace(",", ";"), delimiter=";")
        self.check(write, f"Shop\n{note}\n{LINES}", skip_rows=1)
        error = refused(write("t.csv", f"{note}\n{LINES}".replace(",", ";")), definition_of(USER))
        assert "line 1: it notes that ';' separates values, and ',' is declared. Declare delimiter=';'." in error

    def test_a_footer_that_looks_like_rows_is_named_as_what_it_may_be(self, write):
        content = "user,timestamp,amount\n7,2026-03-01T12:00:00Z,10.5\n"
        error = refused(write("t.csv", f"{content}Total,,10.5\n"), definition_of(("user", "INT64")))
        assert error.endswith("If the last line is no row, declare skip_footer=1.")
        error = refused(write("t.csv", f"{content},,10.5\n,,\n"), definition_of(("user", "INT64")))
        assert error.endswith("If the last 2 lines are no rows, declare skip_footer=2.")
        self.check(write, f"{content},,10.5\n,,\n", skip_footer=2)
        assert "skip_footer" not in refused(write("t.csv", f"{content}x,,\n{content[22:]}"), definition_of(USER))

    def test_a_file_without_a_header(self, write):
        names = ["user", "timestamp", "amount"]
        self.check(write, LINES.partition("\n")[2], column_names=names)
        self.check(write, LINES.partition("\n")[2], column_names=["a", "b", "c"], timestamp_field="b",
                   field_mapping={"a": "user", "c": "amount"})  # fmt: skip
        path = write("t.csv", "7,2026-03-01,1,2\n7,2026-03-01,1,2\n")
        error = refused(path, definition_of(USER, column_names=names))
        assert ", row 1 (line 1) has 4 values: '7,2026-03-01,1,2'; row 2 (line 2) has 4" in error
        assert "; column_names has 3. 2 of 2 rows are refused." in error

    def test_headers_with_blanks_capitals_and_quotes(self, write):
        content = '"User ID","Order ""Date""",Amount \n7,2026-03-01T12:00:00Z,10.5\n'
        mapping = {"User ID": "user", 'Order "Date"': "timestamp", "Amount ": "amount"}
        self.check(write, content, field_mapping=mapping)
        self.check(write, content.replace('Order ""Date""', "when"), timestamp_field="when", field_mapping=mapping | {})

    def test_a_column_that_is_renamed_counts_instead_of_one_that_has_the_name(self, write):
        content = "user,id,timestamp,amount\n8,7,2026-03-01T12:00:00Z,10.5\n"
        self.check(write, content, field_mapping={"id": "user"})
        self.check(
            write,
            "amount,user,timestamp\n7,10.5,2026-03-01T12:00:00Z\n",
            field_mapping={"amount": "user", "user": "amount"},
        )

    @pytest.mark.parametrize(
        ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
    )
    @pytest.mark.parametrize("name", ["t.csv", "t.txt", "t.CSV"])
    def test_compressed_files(self, write, suffix, compress, name):
        self.check(write, compress(LINES.encode()), name + suffix)
        self.check(write, compress(LINES.encode()[:30]) + compress(LINES.encode()[30:]), name + suffix)
        self.check(write, compress(LINES.encode("utf-16")), name + suffix, encoding="utf-16")
        path = write(name + suffix, compress(LINES.encode() * 10_000)[:-20])
        assert "it was cut off" in refused(path, definition_of(USER)) or "can't be unpacked" in refused(
            path, definition_of(USER)
        )
        assert "can't be unpacked as its suffix says" in refused(write(name + suffix, LINES), definition_of(USER))

    def test_files_of_zstandard(self, tmp_path):
        path = tmp_path / "t.csv.zst"
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(LINES.encode())
        assert rows(path, definition_of(USER)) == READ
        path.write_text(LINES)
        assert "can't be unpacked as its suffix says" in refused(path, definition_of(USER))

    @pytest.mark.parametrize(
        ("name", "encoding", "options"),
        [
            ("t.csv", "utf-8", {}),
            ("t.csv.gz", "utf-8", {}),
            ("t.csv", "utf-16", {"encoding": "utf-16"}),
            ("t.csv", "utf-8", {"skip_rows": 2}),
            ("t.csv", "utf-8", {"comment": "#"}),
            ("t.csv", "utf-8", {"skip_rows": 1, "comment": "#", "skip_footer": 1}),
            ("t.txt", "utf-8", {"delimiter": "whitespace"}),
            ("t.csv.gz", "cp1252", {"encoding": "cp1252", "delimiter": "§"}),
        ],
    )
    def test_the_lines_of_what_is_refused_are_those_of_the_file(self, write, name, encoding, options):
        above = "é\n" * options.get("skip_rows", 0)
        comment = "# no row\n" if "comment" in options else ""
        head = f"{above}{comment}user,timestamp,amount\n7,2026-03-01,1\n{comment}\n"
        bad = f"x,2026-03-01,1\n{comment}7,2026-03-01,1\ny,2026-03-01,1\nz,2026-03-01,1\nw,2026-03-01,1\n"
        content = head + bad + "Total\n" * options.get("skip_footer", 0)
        if "delimiter" in options:
            content = content.replace(",", " " if options["delimiter"] == "whitespace" else options["delimiter"])
        data = content.encode(encoding)
        path = write(name, gzip.compress(data) if name.endswith("gz") else data)
        error = refused(path, definition_of(USER, **options))
        lines = content.split("\n")
        place = {user: next(n for n, line in enumerate(lines, 1) if line.startswith(user)) for user in "xyz"}
        assert f"{path}, row 2 (line {place['x']}): user 'x' is not a whole number" in error
        assert f"Nor is 'y' in row 4 (line {place['y']}) nor 'z' in row 5 (line {place['z']})." in error
        assert "4 of 6 rows are refused. If these ids are texts, declare them so" in error

    def test_the_lines_are_right_below_quoted_ends_of_lines_and_without_a_header(self, write):
        path = write("t.csv", '#\n"a\n\n#",7,2026-03-01,1\n"b\n",x,2026-03-01,1\n')
        definition = definition_of(USER, column_names=["n", "user", "timestamp", "amount"], skip_rows=1)
        assert "row 2 (line 6): user 'x'" in refused(path, definition)

    def test_a_quote_that_is_not_closed_is_named_by_its_line_in_any_dialect(self, write):
        content = "é\nuser;timestamp;amount\n7;2026-03-01;1\n#\n7;2026-03-01;'1\n7;2026-03-01;1\n"
        path = write("t.csv.gz", gzip.compress(content.encode("cp1252")))
        options = {"delimiter": ";", "quote": "'", "encoding": "cp1252", "skip_rows": 1, "comment": "#"}
        error = refused(path, definition_of(USER, **options))
        assert "line 5: the quote that opens here" in error
        assert "is not closed" in error

    def test_a_name_without_a_known_suffix_is_refused_with_those_that_are(self, write):
        for name in ("t.xlsx", "t", "t.csv.zip", "t.parquet.gz", "t.gz"):
            assert "must be one of .csv, .tsv, .txt, .json" in refused(write(name, LINES), definition_of(USER))

    def test_a_missing_column_names_the_mapping_to_write(self, write):
        path = write("t.csv", LINES.replace("user", "User ID").replace("amount", "Total"))
        error = refused(path, definition_of(USER))
        assert "the column user is missing; the columns are 'User ID', 'timestamp', 'Total'" in error
        assert 'field_mapping={"...": "user", "...": "amount"}' in error
        path = write("t.csv", LINES.replace("user", "Client"))
        error = refused(path, definition_of(USER, field_mapping={"CLIENT": "user"}))
        assert "the column CLIENT is missing" in error
        assert 'field_mapping={"Client": "user"}' in error
        path = write("t.csv", LINES.replace("timestamp", "Time Stamp"))
        assert 'timestamp_field="Time Stamp"' in refused(path, definition_of(USER))


OBJECT = {"user": 7, "timestamp": "2026-03-01T12:00:00Z", "amount": 10.5, "other": [1, {"a": None}]}


class TestAdvice:
    """What a refusal names is what makes the file readable: each is declared as told, and the file is read."""

    @pytest.mark.parametrize(
        "value",
        [
            *["$134.09", "134.09 EUR", "R$ 5", "kr 1,50", "0,25", "1,234.56", "1.234,56", "1 234,56", "1\u202f234"],
            *["1'234.50", "12,34,567.8", "(5.00)", "($5)", "5.00-", "1.234.567", "\u20ac\u00a01.234,56", "n/a"],
            *["NULL", "-1,5", "1_234.5"],
        ],
    )
    def test_of_amounts(self, write, value):
        row = f"7\t2026-03-01\t{value}\n"
        path = write("a.tsv", f"user\ttimestamp\tamount\n{row}{row}")
        declared = options_in(refused(path, definition_of(USER)))
        assert declared
        where = {"where": "amount IS NULL"} if "null_values" in declared else {}
        if where:
            assert "row 1 (line 2): amount is null" in refused(path, definition_of(USER, **declared))
        else:
            assert len(rows(path, definition_of(USER, **declared))) == 2

    @pytest.mark.parametrize(
        "value",
        [
            *["12/13/2010 8:26", "13/12/2010", "13.12.2010 08:26", "13.12.10", "2010/12/13", "20101213"],
            *["20101213082600", "2010-12-13 8:26:00", "2010-12-13 08:26:00 UTC", "2010-12-13 08:26:00 +0100"],
            *["13-Dec-10", "Dec 13, 2010", "13 December 2010 08:26", "12/13/2010 8:26 PM", "12/13/2010 8:26:05 am"],
            *["13/Dec/2010:08:26:00 +0100", "Mon Dec 13 08:26:00 UTC 2010", "2010-12-13 08:26:00,123"],
            *["13.12.2010, 08:26", "1700000000", "1700000000.5", "1700000000000", "1700000000000000"],
            *["1700000000000000000", "40525.35", "40525", "20423", "Dec 13, 2010, 8:26 AM", "Dec 13, 2010, 8:26:05 PM"],
            *["2010-12-13-08.26.00.000000", "2010-12-13 1 PM", "12/13/2010 1PM", "20101213T082600Z", "20101213T082600"],
        ],
    )
    def test_of_timestamps(self, write, value):
        path = write("a.tsv", f"user\ttimestamp\tamount\n7\t{value}\t1\n")
        declared = options_in(refused(path, definition_of(USER)))
        assert len(rows(path, definition_of(USER, **declared))) == 1

    @pytest.mark.parametrize(
        "content",
        [
            LINES.replace(",", ";"),
            LINES.replace(",", "\t"),
            LINES.replace(",", "|"),
            "user timestamp amount\n7   2026-03-01 10.5\n",
            f"# made by hand\n{LINES}",
            f"Shop\n\n{LINES}",
            f"Shop;x\n{LINES}".replace(",", ";"),
            LINES.replace("7,", "7.0,"),
            LINES.encode("utf-16"),
            LINES.replace("user", "\xe9,user").replace("7,", "\xe9,7,").encode("latin-1"),
            LINES.replace("user", "\u20ac,user").replace("7,", "\u20ac,7,").encode("cp1252"),
            LINES.replace("user", "User ").replace("amount", "AMOUNT"),
            LINES.replace("timestamp", "Time-Stamp"),
        ],
        ids=range(13),
    )
    def test_of_files(self, write, content):
        path = write("a.csv", content)
        declared = options_in(refused(path, definition_of(USER)))
        assert len(rows(path, definition_of(USER, **declared))) == 1

    @pytest.mark.parametrize(
        ("form", "good", "bad", "told"),
        [
            ("%d/%m/%Y", "13/12/2010", "12/13/2010", "The others are written as declared."),
            ("%d/%m/%Y", "13/12/2010", "2010-12-13", "The others are written as declared."),
            ("%Y-%m-%d %H:%M:%S %z", "2010-12-13 08:26:00 +0530", "2010-12-13T08:26:00+0530", "The others are written"),
            (None, "2010-12-13", "12/13/2010", "The others are ISO 8601"),
            (None, "2010-12-13", "1700000000", "The others are ISO 8601"),
            ("seconds", "1700000000", "12/13/2010", "The others are written as declared."),
            ("seconds", "1700000000", "1700000000.1234567", "Cut them to 6 digits behind the '.'"),
            ("milliseconds", "1700000000000", "1700000000000.12345", "Cut them to 3 digits behind the '.'"),
            ("nanoseconds", "1700000000000000000", "1700000000000000001", "the last three digits of nanoseconds"),
            ("days", "40525", f"40525.{'1' * 19}", "Cut them to 18 digits behind the '.'"),
            ("seconds", "1700000000", " 1700000001", "Leave out blanks around the time."),
            ("%d.%m.%Y", "13.12.2010", "#N/A", 'declare null_values=["#N/A"]'),
        ],
    )
    def test_of_a_few_rows_is_what_is_wrong_with_them(self, write, form, good, bad, told):
        for values in ([good, good, bad], [bad, good, good]):
            path = write("a.tsv", "user\ttimestamp\tamount\n" + "".join(f"7\t{value}\t1\n" for value in values))
            error = refused(path, definition_of(USER, timestamp_format=form))
            assert told in error
            assert "timestamp_format=" not in error
            assert "ISO 8601" not in error or form is None
            assert ("skip_footer" in error) == (bad == "#N/A" and values[-1] == bad)

    def test_of_a_day_that_is_taken_for_a_month_is_the_other_order(self, write):
        days = "".join(f"7\t{day}/12/2010\t1\n" for day in range(1, 32))
        path = write("a.tsv", f"user\ttimestamp\tamount\n{days}")
        assert 'timestamp_format="%d/%m/%Y"' in refused(path, definition_of(USER, timestamp_format="%m/%d/%Y"))

    @pytest.mark.parametrize("form", [None, "%Y-%m-%d", "days"])
    def test_of_a_time_that_clocks_do_not_show_once_is_no_offset_where_none_can_be(self, write, form):
        value = "17837" if form == "days" else "2018-11-02"
        bad = "17839" if form == "days" else "2018-11-04"
        path = write("a.tsv", f"user\ttimestamp\tamount\n7\t{value}\t1\n7\t{bad}\t1\n")
        error = refused(path, definition_of(USER, timestamp_format=form, time_zone="America/Sao_Paulo"))
        assert "America/Sao_Paulo skip these times, or show them twice: " in error
        assert ("an offset" in error) == (form is None)

    @pytest.mark.parametrize(
        ("values", "told"),
        [
            (["1.5", "2"], 'Field(name="amount", dtype=Float64)'),
            (["1e3"], 'Field(name="amount", dtype=Float64)'),
            (["#DIV/0!"], 'null_values=["#DIV/0!"]'),
            (["#N/A"], 'null_values=["#N/A"]'),
        ],
    )
    def test_of_whole_numbers(self, write, values, told):
        path = write("a.tsv", "user\ttimestamp\tamount\n" + "".join(f"7\t2010-12-13\t{value}\n" for value in values))
        assert told in refused(path, definition_of(USER, columns={"amount": Int64}))

    @pytest.mark.parametrize(("encoding", "of_file"), [("utf-16", "utf-8"), ("utf-32", "utf-8"), ("ascii", "utf-8")])
    def test_of_a_file_in_utf_8_that_is_declared_another(self, write, encoding, of_file):
        path = write("a.csv", LINES.replace("user", "\xe9,user").replace("7,", "\xe9,7,"), of_file)
        told = refused(path, definition_of(USER, encoding=encoding))
        assert f"is not {encoding}. The file seems to be in UTF-8: leave out encoding." in told

    @pytest.mark.parametrize("encoding", ["shift_jis", "gbk", "euc_jp", "cp1251", "big5"])
    def test_of_letters_that_are_not_western_no_encoding_is_claimed(self, write, encoding):
        text = "\u0418\u0432\u0430\u043d" if encoding == "cp1251" else "\u7530\u4e2d"
        told = refused(write("a.csv", LINES.replace("user", f"{text},user"), encoding), definition_of(USER))
        assert "seems to be" not in told
        assert encoding.replace("euc_jp", "euc-kr") in told

    def test_of_a_text_in_double_quotes_is_single_ones(self, write):
        path = write("a.csv", LINES)
        told = refused(path, definition_of(USER, where='note = "paid"', columns={"amount": Float64, "note": String}))
        assert "the column note is missing" in told
        told = refused(write("a.csv", "user,timestamp,amount,note\n"), definition_of(USER, where='note = "paid"'))
        assert "A text in a condition stands in single quotes, 'paid'" in told

    def test_of_a_path_is_where_it_counts_from(self, tmp_path):
        with pytest.raises(UserError, match="counts from the folder of") as error:
            read_transactions(tmp_path / "orders.csv", definition_of(USER))
        assert "generate_synthetic_data" not in str(error.value)
        with pytest.raises(UserError, match=r"Make one with: python generate_synthetic_data\.py"):
            read_transactions(tmp_path / "user_transactions.csv", definition_of(USER))


def options_in(error: str) -> dict:
    """The options that a refusal names."""
    value = r'"(?:[^"\\]|\\.)*"|True|\d+|\[[^\]]*\]|\{[^}]*\}'
    found = re.findall(rf"\b([a-z_]+)=({value})", error)
    own = [(name, text) for name, text in found if name not in ("where", "name", "join_keys") and "..." not in text]
    return {name: ast.literal_eval(text) for name, text in own}


class TestJson:
    @pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.ndjson", "t.JSON"])
    @pytest.mark.parametrize(
        "content",
        [
            json.dumps(OBJECT),
            json.dumps([OBJECT]),
            json.dumps([OBJECT], indent=2),
            json.dumps(OBJECT, indent=2) + "\n",
            f"\ufeff{json.dumps(OBJECT)}\r\n\r\n",
            json.dumps(OBJECT | {"amount": "10.5", "user": "7"}),
        ],
    )
    def test_objects_and_arrays(self, write, name, content):
        assert rows(write(name, content), definition_of(USER)) == READ

    def test_several_objects(self, write):
        for content in ("\n".join([json.dumps(OBJECT)] * 3), json.dumps([OBJECT] * 3)):
            assert rows(write("t.json", content), definition_of(USER)) == READ * 3
        path = write("t.jsonl.gz", gzip.compress(json.dumps(OBJECT).encode("utf-16")))
        assert rows(path, definition_of(USER, encoding="utf-16")) == READ

    def test_names_in_objects_have_dots(self, write):
        content = json.dumps(
            {"a": {"user": {"id": 7}}, "timestamp": "2026-03-01T12:00:00Z", "x.y": 10.5, "x": {"y": 1}}
        )
        definition = definition_of(USER, field_mapping={"a.user.id": "user", "x.y": "amount"})
        assert rows(write("t.json", content), definition) == READ

    def test_numbers_lose_no_digit(self, write):
        content = '{"user": 12345678901234567890.10, "timestamp": 1700000000.25, "amount": 9007199254740993}'
        columns = {"amount": Int64}
        definition = definition_of(("user", "STRING"), columns=columns, timestamp_format="seconds", decimal=",")
        instant = utc(2023, 11, 14, 22, 13, 20, 250000)
        assert rows(write("t.json", content), definition) == [("12345678901234567890.10", instant, 9007199254740993)]

    def test_booleans_and_texts(self, write):
        content = json.dumps({"user": True, "timestamp": "2026-03-01", "amount": "1.234,5", "s": "", "b": "x"})
        columns = {"amount": Float64, "s": String}
        definition = definition_of(("user", "BOOL"), ("b", "BYTES"), columns=columns, decimal=",", thousands=".")
        assert rows(write("t.json", content), definition) == [(True, b"x", utc(2026, 3, 1), 1234.5, "")]

    def test_what_is_absent_or_null_is_null(self, write):
        lines = [OBJECT, OBJECT | {"amount": None}, {"user": 7}, OBJECT | {"status": "paid"}]
        path = write("t.jsonl", "\n".join(map(json.dumps, lines)))
        assert rows(path, definition_of(USER, where="amount > 0")) == READ * 2
        assert rows(path, definition_of(USER, where="status = 'paid'")) == READ
        assert rows(path, definition_of(USER, where="amount > 0 AND refund IS NULL")) == READ * 2
        error = refused(path, definition_of(USER))
        assert "row 3 (line 3): timestamp is null" in error
        assert "the column id is missing; the columns are 'user'" in refused(path, definition_of(("id", "INT64")))

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("", "it has no rows"),
            (" \n", "it has no rows"),
            ('{"user": 7', "line 1: this is not JSON"),
            ('{"user": 7}\n{"user" 7}\n', "line 2: this is not JSON"),
            ('[{"user": 7}', "not closed at the end"),
            ('[{"user": 7}] x', "not closed at the end"),
            ("7\n", "is no object"),
            ("null\n", ": null is no object"),
            (
                '{"user": [7], "timestamp": "2026-03-01", "amount": 1}',
                "user is a list, and only single values are read",
            ),
            ('{"user": {"id": 7}, "timestamp": "2026-03-01", "amount": 1}', 'field_mapping={"user.id": ...}'),
            ('{"user": "x", "timestamp": "2026-03-01", "amount": 1}', "row 1 (line 1): user 'x' is not a whole number"),
            ("[" * 100_000, "this is not JSON"),
            ('{"user": "\\ud800", "timestamp": "2026-03-01", "amount": 1}', "half of a character"),
            ("[]", "it has no rows"),
        ],
    )
    def test_what_is_no_such_json(self, write, content, told):
        assert told in refused(write("t.json", content), definition_of(USER))

    def test_rows_that_are_refused_have_their_lines(self, write):
        objects = [OBJECT, OBJECT | {"user": "x"}, OBJECT, OBJECT | {"user": 7.5}]
        path = write("t.json", "[\n" + ",\n".join(map(json.dumps, objects)) + "\n]")
        error = refused(path, definition_of(USER))
        assert "row 2 (line 3): user 'x' is not a whole number" in error
        assert "Nor is '7.5' in row 4 (line 5). 2 of 4 rows are refused." in error


class TestFolders:
    """Several files are read as one, in every mode; folders may be columns."""

    def test_all_files_but_hidden_ones_of_any_kind(self, write, tmp_path):
        write("in/a.csv", LINES)
        write("in/b/c.jsonl.gz", gzip.compress(json.dumps(OBJECT).encode()))
        write("in/b/d.tsv", LINES.replace(",", "\t"))
        pq.write_table(pa.table({"user": [7], "timestamp": [NOON], "amount": [10.5]}), tmp_path / "in/e.parquet")
        for hidden in ("in/_SUCCESS", "in/.a.csv.crc", "in/_temporary/x.csv", "in/.git/x.csv"):
            write(hidden, "x")
        assert rows(tmp_path / "in", definition_of(USER)) == READ * 4
        out, user = tmp_path / "out.parquet", Entity(name="user", value_type=ValueType.INT64)
        counted = table(tmp_path, "counted", [user], [aggregation("count", "amount")])
        assert compute_here(counted, tmp_path / "in", out) == "1 feature rows of 1 user"
        assert pq.read_table(out)["count_amount_ever"].to_pylist() == [4]

    def test_incrementally_a_new_file_of_any_kind_is_taken_up(self, write, tmp_path):
        definition = definition_of(USER)
        without_user = LINES.replace("user,", "").replace("7,", "")
        write("in/user=7/a.csv.gz", gzip.compress(without_user.encode()))
        assert [day.rows for day in update(tmp_path / "in", tmp_path / "out", definition)] == [1]
        write("in/user=8/b.jsonl", json.dumps(OBJECT).replace('"user"', '"other_user"'))
        assert [day.rows for day in update(tmp_path / "in", tmp_path / "out", definition)] == [2]
        assert update(tmp_path / "in", tmp_path / "out", definition) is None
        assert pq.read_table(tmp_path / "out", partitioning=None)["user"].to_pylist() == [7, 8]

    def test_a_file_of_another_kind_is_named(self, write, tmp_path):
        write("in/a.csv", LINES)
        path = write("in/notes.docx", "x")
        with pytest.raises(UserError, match="the suffix") as error:
            read_transactions(tmp_path / "in", definition_of(USER))
        assert str(path) in str(error.value)

    def test_a_fault_is_named_by_its_file(self, write, tmp_path):
        write("in/a.csv", LINES)
        path = write("in/b.csv", LINES.replace("7,", "x,"))
        with pytest.raises(UserError) as error:
            read_transactions(tmp_path / "in", definition_of(USER))
        assert f"{path}, row 1 (line 2)" in str(error.value)

    def test_a_file_without_rows_is_one_of_several_and_not_the_only_one(self, write, tmp_path):
        write("in/a.csv", LINES.partition("\n")[0])
        assert "it has no rows" in refused(tmp_path / "in", definition_of(USER))
        write("in/b.csv", LINES)
        assert rows(tmp_path / "in", definition_of(USER)) == READ

    @pytest.mark.parametrize("type", ["INT64", "STRING"])
    def test_hive_partitions_are_columns(self, write, tmp_path, type):
        table = pa.table({"timestamp": [NOON], "amount": [10.5]})
        for name in ("user=7", "user=%C3%A9%2F" if type == "STRING" else "user=8"):
            folder = tmp_path / "in" / "month=2026-03" / name
            folder.mkdir(parents=True)
            pq.write_table(table, folder / "part-0.parquet")
            write(f"in/month=2026-03/{name}/part-1.csv", LINES.replace("user,", "").replace("7,", ""))
            write(f"in/month=2026-03/{name}/part-2.jsonl", json.dumps({"timestamp": str(NOON), "amount": 10.5}))
        definition = definition_of(("user", type), where="month = '2026-03'")
        expected = [7] * 3 + [8] * 3 if type == "INT64" else ["é/"] * 3 + ["7"] * 3
        assert sorted(row[0] for row in rows(tmp_path / "in", definition)) == sorted(expected)
        file = tmp_path / "in" / "month=2026-03" / "user=7" / "part-0.parquet"
        assert rows(file, definition) == [(7 if type == "INT64" else "7", NOON, 10.5)]

    def test_a_column_of_the_file_counts_instead_of_a_folder_and_a_null_folder_is_null(self, write, tmp_path):
        write("in/user=8/a.csv", LINES)
        assert rows(tmp_path / "in", definition_of(USER)) == READ
        write("in/user=__HIVE_DEFAULT_PARTITION__/a.csv", LINES.replace("user,", "").replace("7,", ""))
        with pytest.raises(UserError, match=r"row 1 \(line 2\): user is null"):
            read_transactions(tmp_path / "in", definition_of(USER))
        assert rows(tmp_path / "in", definition_of(USER, where="user IS NOT NULL")) == READ

    def test_a_wrong_partition_is_refused(self, write, tmp_path):
        path = write("in/user=x/a.csv", LINES.replace("user,", "").replace("7,", ""))
        with pytest.raises(UserError, match="user 'x' is not a whole number") as error:
            read_transactions(tmp_path / "in", definition_of(USER))
        assert str(path) in str(error.value)

    def test_partitions_may_be_timestamps(self, write, tmp_path):
        write("in/day=20260301/a.csv", "user,amount\n7,10.5\n")
        definition = definition_of(USER, timestamp_field="day", timestamp_format="%Y%m%d")
        assert rows(tmp_path / "in", definition) == [(7, utc(2026, 3, 1), 10.5)]

    @pytest.mark.scale
    @pytest.mark.skipif(not find_spec("moto") and "CI" not in os.environ, reason="moto missing")
    def test_partitions_in_a_bucket_are_columns_file_by_file(self, bucket, monkeypatch):
        for name, value in bucket.items():
            monkeypatch.setenv(name, value)
        s3 = fs.S3FileSystem(endpoint_override=bucket["AWS_ENDPOINT_URL"])
        with s3.open_output_stream("bucket/in/user=7/a.csv.gz", compression=None) as file:
            file.write(gzip.compress(LINES.replace("user,", "").replace("7,", "").encode()))
        for place in ("s3://bucket/in", "s3://bucket/in/user=7", "s3://bucket/in/user=7/a.csv.gz"):
            with on_disk(location(place)) as path:
                assert rows(path, definition_of(USER)) == READ


class TestFaults:
    """What is declared wrongly is refused where it is declared, in one line."""

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"delimeter": ";"}, "a TransactionSource has no option 'delimeter'"),
            ({"delimiter": ";;"}, "the delimiter ';;' is not one character"),
            ({"delimiter": ""}, "the delimiter '' is not one character"),
            ({"delimiter": "\n"}, "is not one character"),
            ({"delimiter": 7}, "delimiter is 7, and has to be a text"),
            ({"quote": "''"}, "the quote \"''\" is not one ASCII character"),
            ({"quote": ","  , "delimiter": ","}, "the quote and the delimiter are both ','"),
            ({"encoding": "latin1000"}, "the encoding 'latin1000' is not one that Python has"),
            ({"encoding": "base64"}, "the encoding 'base64' is not one that Python has"),
            ({"time_zone": "Berlin"}, "the time_zone 'Berlin' is not the IANA name of one"),
            ({"time_zone": "../../etc/passwd"}, "is not the IANA name"),
            ({"time_zone": "localtime"}, "is not the IANA name"),
            ({"time_zone": ""}, "is not the IANA name"),
            ({"timestamp_format": "fortnights"}, "is neither a strptime format, such as %d.%m.%Y %H:%M, nor"),
            ({"timestamp_format": "%Y-%m-%d %Q"}, "has %Q, which is none of %Y"),
            ({"timestamp_format": "%Y-%m-%d %"}, "has %, which is none of"),
            ({"timestamp_format": "%Y-%m-%d %Y"}, "has %Y 2 times"),
            ({"timestamp_format": "%Y %y"}, "has both %Y and %y"),
            ({"timestamp_format": "%Y %m %b"}, "has both %m and %b"),
            ({"timestamp_format": "%d.%m. %H:%M"}, "has no year"),
            ({"timestamp_format": "%Y-%m-%d %I:%M"}, "has only one of %I, hours up to 12, and %p"),
            ({"timestamp_format": "%Y-%m-%d %H:%M %p"}, "has only one of %I"),
            ({"timestamp_format": "%c"}, "has %c, which is none of"),
            ({"currency": "E"}, "the currency 'E' may be a part of a number"),
            ({"currency": "("}, "the currency '(' may be a part of a number"),
            ({"currency": "\u2019", "thousands": "'"}, "separates digits, too"),
            ({"origin": "2020-01-01"}, "an origin is for timestamps that count"),
            ({"origin": "new year", "timestamp_format": "hours"}, "the origin 'new year' is no ISO 8601 date"),
            ({"origin": "2020-01-01T00Z", "timestamp_format": "days"}, "of days has an offset"),
            ({"origin": "2026-03-29T02:30", "timestamp_format": "hours", "time_zone": "Europe/Rome"}, "does not exist"),
            ({"decimal": ""}, "decimal is '', and has to be one character"),
            ({"decimal": "5"}, "decimal is '5'"),
            ({"thousands": "."}, "decimal and thousands are both '.'"),
            ({"thousands": "--"}, "thousands is '--'"),
            ({"currency": "5"}, "the currency '5' has digits"),
            ({"negative": "red"}, "negative is 'red', and has to be one of leading, trailing, parentheses"),
            ({"skip_rows": -1}, "skip_rows is -1, and has to be 0 or more"),
            ({"skip_rows": "1"}, "skip_rows is '1', and has to be a whole number"),
            ({"skip_footer": True}, "skip_footer is True, and has to be a whole number"),
            ({"whole_with_point": 1}, "whole_with_point is 1, and has to be True or False"),
            ({"null_values": "NA"}, "null_values is 'NA', and has to be a list of texts"),
            ({"timestamp_columns": [1]}, "timestamp_columns is (1,), and has to be a list of texts"),
            ({"column_names": ["a", "a"]}, "column_names has 'a' 2 times"),
            ({"column_names": ["a"], "timestamp_columns": ["b"]}, "column_names has no 'b'"),
            ({"field_mapping": {"a": "c", "b": "c"}}, "field_mapping calls 2 columns 'c'"),
            ({"comment": "#\n"}, "has the end of a line in it"),
            ({"schema": [Field(name="x", dtype=Float32)]}, "the column x is declared Float32"),
            ({"schema": [Field(name="x", dtype=Bytes)]}, "the column x is declared Bytes"),
            ({"schema": ["x"]}, "its schema has 'x', which is no Field"),
            ({"schema": [Field(name="x", dtype=Int64)] * 2}, "2 Fields of its schema are called 'x'"),
        ],
    )  # fmt: skip
    def test_one_clear_line(self, options, told):
        with pytest.raises(DefinitionError) as error:
            TransactionSource(name="raw", path="raw.csv", **options)
        assert told in str(error.value)
        assert "raw: " in str(error.value)
        assert "test_formats.py, line" in str(error.value)
        assert "\n" not in str(error.value)

    def test_what_is_declared_rightly_has_none(self):
        source = TransactionSource(
            name="raw", path="raw.csv", timestamp_format="%d.%m.%Y", time_zone="Europe/Berlin", null_values=["NA"]
        )
        assert source.reading.null_values == ("NA",)
        assert source.reading.timestamp_format == "%d.%m.%Y"


def test_a_worker_reads_every_kind_of_file_without_feast(tmp_path):
    for name, content in {
        "a.csv": LINES,
        "b.jsonl": json.dumps(OBJECT),
        "c.csv.gz": gzip.compress(LINES.encode()),
    }.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    pacsv.write_csv(pa.table({"x": [1]}), tmp_path / "_x.csv")
    code = f"""
import sys
from datetime import timedelta
from pathlib import Path
import pyarrow as pa
from parity.definition.reading import Reading
from parity.definition.table import Definition, Rule
from parity.transactions.read import read_transactions
keys = pa.schema([pa.field("user", pa.int64(), nullable=False)])
rule = Rule("n", "count", "amount", timedelta(days=1))
definition = Definition("v", keys, "event_timestamp", (rule,), Reading(time_zone="Europe/Berlin"))
print(read_transactions(Path({str(tmp_path)!r}), definition).num_rows)
print(sorted({{"feast", "sqlglot", "duckdb"}} & {{name.partition(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split("\n")[:2]) == (0, ["3", "[]"]), done.stderr


FILES_MD = (ROOT / "docs" / "files.md").read_text()
EXAMPLES = re.findall(
    r"^`([^`\n]+)`[^\n]*\n\n```text\n(.*?)```\n\n```python\n(.*?)```", FILES_MD, re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize(("name", "content", "code"), EXAMPLES, ids=[name for name, *_ in EXAMPLES])
def test_each_example_of_the_docs_is_read_as_it_stands(tmp_path, name, content, code):
    declared = {}
    exec(code, {**globals()}, declared)
    [source] = [value for value in declared.values() if isinstance(value, TransactionSource)]
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode(source.reading.encoding))
    entities = [value for value in declared.values() if isinstance(value, Entity)]
    where = re.search(rf"^`{name}`.*`where=\"(.*)\"`", FILES_MD, re.MULTILINE)
    view = AggregatedFeatureView(
        name="seen",
        entities=entities,
        transactions=source,
        aggregations=[
            Aggregation(name=f"n_{field.name}", function="count", column=field.name) for field in source.schema
        ],
        source=FileSource(name="features", path="/nowhere/features.parquet", timestamp_field="event_timestamp"),
        where=where and where[1],
    )
    read = rows(tmp_path / source.path, view.definition)
    no_rows = source.reading.skip_rows + source.reading.skip_footer + content.count("#") + content.count("sep=")
    left_out = 1 if where else 0
    header = 0 if source.reading.column_names or name.endswith("jsonl") else 1
    assert len(read) == content.count("\n") - no_rows - header - left_out


def test_the_docs_have_every_option_and_no_other():
    assert len(EXAMPLES) == FILES_MD.count("```python")
    told = set(re.findall(r"^\| `(\w+)` \|", FILES_MD, re.MULTILINE))
    options = {field.name for field in dataclasses.fields(Reading)} - {"name", "timestamp", "renamed"}
    assert told == options | {"path", "timestamp_field", "field_mapping", "schema"}
