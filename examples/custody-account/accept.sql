/*
 * accept.sql: the one statement that a notification which came over HTTP needs; run
 * by callback.pl, with the request in the environment. Prints the SQLSTATE, and
 * applied or known.
 */
\getenv body BODY
\getenv headers HEADERS
\getenv secret SECRET
\set answer ''
SELECT dtx_accept(:'body', :'headers', :'secret', sender => 'custody') AS answer \gset
\echo :SQLSTATE :answer
