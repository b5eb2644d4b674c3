-- Run once, when PostgreSQL makes its data folder: a database for each server. Prefect searches with trigrams.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
