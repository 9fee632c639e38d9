"""The archive: every test and every result, in a SQL database.

tables     what is stored, and the layout's version
engine     opening SQLite or PostgreSQL, transactions, damage
rows       messages to rows and back
archive    what is written and looked up
pages      the list, page by page
"""

from controller.archive.archive import Archive, Row, Stored
from controller.archive.engine import open_database

__all__ = ["Archive", "Row", "Stored", "open_database"]
