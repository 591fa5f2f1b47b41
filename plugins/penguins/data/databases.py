"""Which databases the raw table may be in: another one is one more class, and its line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penguins.data.mysql import MySQLWarehouse
from penguins.data.sqlite import SQLiteWarehouse
from penguins.data.warehouse import Warehouse, WarehouseError

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

WAREHOUSES: dict[str, type[Warehouse]] = {"mysql": MySQLWarehouse, "sqlite": SQLiteWarehouse}


def open_warehouse(hook: DbApiHook) -> Warehouse:
    """Return the warehouse for a hook, by its connection type: mysql or sqlite."""
    kind = WAREHOUSES.get(hook.conn_type)
    if kind is None:
        raise WarehouseError(f"the connection's type is {hook.conn_type}; it must be {' or '.join(WAREHOUSES)}")
    return kind(hook)
