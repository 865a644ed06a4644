"""Kept for configurations that name ``vineyard.contrib.airflow``; the provider is ``airflow_provider_vineyard``."""
