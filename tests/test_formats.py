"""Files as people have them: each is read as it is, with a declaration in features.py and nothing else."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from feast import Entity, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.types import Float64, Int32, Int64, String

from parity.definition.declare import AggregatedFeatureView, TransactionSource
from parity.definition.table import Definition
from parity.edge.errors import UserError
from parity.transactions.read import read_transactions


def definition_of(
    *keys: tuple[str, str], columns: dict | None = None, where: str | None = None, **source: object
) -> Definition:
    """The definition of a view as features.py declares it: ``keys`` with their types, the last of each column."""
    columns = {"amount": Float64} if columns is None else columns
    entities = [Entity(name=name, join_keys=[name], value_type=ValueType[type]) for name, type in keys]
    schema = [Field(name=name, dtype=type) for name, type in columns.items()]
    view = AggregatedFeatureView(
        name="seen",
        entities=entities,
        ttl=timedelta(days=1),
        transactions=TransactionSource(name="raw", path="raw.csv", schema=schema, **source),
        aggregations=[Aggregation(name=f"last_{name}", function="last", column=name) for name in columns],
        source=FileSource(name="features", path="/nowhere/features.parquet", timestamp_field="event_timestamp"),
        where=where,
    )
    return view.definition


def rows(path: Path, definition: Definition) -> list[tuple]:
    """Read a file into rows: keys, the instant, and the columns by name."""
    table = read_transactions(path, definition)
    assert table.schema == definition.transactions
    assert not any(column.null_count for column in table.columns)
    return [tuple(row.values()) for row in table.to_pylist()]


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


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
        with pytest.raises(UserError) as refused:
            rows(path, definition_of(("user_id", "INT64"), columns={"order_number": Float64}))
        assert "the column timestamp is missing; the columns are 'order_id', 'user_id'" in str(refused.value)
        assert "timestamp_field=" in str(refused.value)
        assert "without one nothing can be computed" in str(refused.value)
