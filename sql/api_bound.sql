--
-- How the public functions are called by drivers: which types the server finds for
-- parameters that come without one, and which parameters a driver has to cast that sends
-- strings as varchar and numbers as the smallest type that holds them, or as bigint.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;

-- The types found for a call with $1, $2, ... declared so, or NULL when it is refused.
CREATE FUNCTION api.found(function text, types text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  found text;
BEGIN
  EXECUTE format('PREPARE bound (%s) AS SELECT %s(%s)', array_to_string(types, ', '), function,
                 (SELECT string_agg('$' || i, ', ') FROM generate_subscripts(types, 1) AS i));
  SELECT array_to_string(parameter_types, ', ') INTO found FROM pg_prepared_statements WHERE name = 'bound';
  DEALLOCATE bound;
  RETURN found;
EXCEPTION WHEN undefined_function OR ambiguous_function OR indeterminate_datatype OR ambiguous_parameter THEN
  RETURN NULL;
END $$;

-- Those arguments that cannot be of a type, one being tried at a time.
CREATE FUNCTION api.refuses(function text, args oidvector, category "char", type text) RETURNS text LANGUAGE sql AS $$
  SELECT coalesce(' ' || type || ': ' || string_agg('$' || i, ', ' ORDER BY i), '')
  FROM generate_series(1, array_length(args, 1)) AS i JOIN pg_type AS t ON t.oid = args[i - 1]
  WHERE (category = 'S' OR t.typcategory = category)
    AND api.found(function, (SELECT array_agg(CASE k WHEN i THEN type ELSE 'unknown' END ORDER BY k) FROM generate_series(1, array_length(args, 1)) AS k)) IS NULL
$$;

SELECT proname || ': ' || coalesce(api.found(proname, array_fill('unknown'::text, ARRAY[pronargs::integer])), 'AMBIGUOUS') ||
       coalesce(E'\n  not' || nullif(api.refuses(proname, proargtypes, 'S', 'varchar') || api.refuses(proname, proargtypes, 'N', 'smallint') || api.refuses(proname, proargtypes, 'N', 'bigint'), ''), '')
FROM pg_proc AS p JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE e.extname = 'dtx' AND proname LIKE 'dtx\_%' AND pronargs > 0 AND proname <> 'dtx_query'
ORDER BY proname COLLATE "C", pg_get_function_identity_arguments(p.oid) COLLATE "C";
DROP FUNCTION api.refuses, api.found;
