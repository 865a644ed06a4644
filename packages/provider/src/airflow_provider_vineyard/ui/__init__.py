"""What people see of values in Airflow's web interface: a page, tabs and a link; ``plugin`` is where Airflow begins.

``views`` answers each question for both generations of Airflow, with what ``rows`` and ``sums`` read in the database,
``hosts`` asks the stores, and ``previews`` believes of their answers. ``fastapi_app`` and ``flask_app`` ask who may see
it, and ``static`` is what runs in the browser. Read ``views`` first.

Invariants: no store is listed, whatever is asked; no value is decoded and no code of one runs; a route gives nothing to
anybody who may not read the DAG; everything that a store, a row or a browser says is checked where it arrives.
"""
