-- Nothing to do: one process has the file, so its writes need no function. The number is kept in
-- step with Postgres.
SELECT 1;
