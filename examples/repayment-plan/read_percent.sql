/*
 * read_percent.sql: the repayment service learns to read a rate such as "6 %".
 */
CREATE OR REPLACE FUNCTION annual_rate(terms jsonb) RETURNS numeric
LANGUAGE sql IMMUTABLE SET search_path = public, pg_temp
BEGIN ATOMIC
    SELECT CASE WHEN terms ->> 'annual_rate' LIKE '%\%' THEN rtrim(terms ->> 'annual_rate', ' %')::numeric / 100
                ELSE (terms ->> 'annual_rate')::numeric END;
END;
