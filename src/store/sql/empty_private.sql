DO $$
DECLARE
    place record;
BEGIN
    FOR place IN
        SELECT schemaname, tablename
        FROM pg_tables
        WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
            AND tablename NOT IN ('_sqlx_migrations', 'schedules', 'gateway_tokens')
    LOOP
        EXECUTE format('DELETE FROM %I.%I', place.schemaname, place.tablename);
    END LOOP;
END
$$
