# What a server or a mapping names must stop nobody: files that are none, names that
# nobody can look up. And what a peer says is shown without harm: notices, control
# characters, answers without end.

use strict;
use warnings;

use File::Basename;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

needs_programs('openssl');

# names that the test has a say in
my $resolve = PostgreSQL::Test::Utils::tempdir() . '/resolve.so';
system_or_bail('gcc', '-shared', '-fPIC', '-O', '-o', $resolve, dirname(__FILE__) . '/http/resolve.c', '-ldl');
my $dir = PostgreSQL::Test::Utils::tempdir_short();
system_or_bail('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
	'-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-keyout', "$dir/key.pem", '-out', "$dir/cert.pem");
chmod 0600, "$dir/key.pem";
$ENV{LD_PRELOAD} = $resolve;
my ($bank1, $bank2) = two_banks(conf => <<"CONF");
listen_addresses = '127.0.0.1'
ssl = on
ssl_cert_file = '$dir/cert.pem'
ssl_key_file = '$dir/key.pem'
CONF
delete $ENV{LD_PRELOAD};
my $port = $bank2->port;
my $user = (getpwuid($>))[0];
my $total = money($bank1, $bank2);

sub server
{
	my ($name, $options, $mapping) = @_;
	$bank1->safe_psql('bank1', <<"SQL");
CREATE SERVER $name FOREIGN DATA WRAPPER dtx_fdw OPTIONS (port '$port', dbname 'bank2', $options);
CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (user '$user'@{[ $mapping // '' ]});
SQL
	return;
}

# The worker that is there serves another peer, and ends when it is told to.
sub worker_is_well
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $xid = value($bank1, "SELECT dtx_transfer('bank2', '1', '2', 1)");
	is(value($bank1, "SELECT dtx_wait('$xid', '180s')"), 'committed', "$what: a transfer to another peer is settled");
	my $worker = workers($bank1);
	value($bank1, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE pid = $worker", 'postgres');
	isnt(workers($bank1), $worker, "$what: the worker ends when it is told to");
	return;
}

sub last_error
{
	my ($server) = @_;
	wait_for_value($bank1, "SELECT count(*) FROM dtx_notifications WHERE server = '$server' AND last_error IS NOT NULL", 1);
	return value($bank1, "SELECT last_error FROM dtx_notifications WHERE server = '$server'");
}

# --- files

mkfifo("$dir/fifo", 0666) or BAIL_OUT("mkfifo: $!");
foreach my $option (qw(sslcert sslkey sslrootcert sslcrl))
{
	my $r = session($bank1)->run("CREATE SERVER fifo FOREIGN DATA WRAPPER dtx_fdw OPTIONS ($option '$dir/fifo')");
	is($r->{state}, 'HV024', "$option: not a FIFO");
	# it becomes one later
	append_to_file("$dir/file$option", '');
	my $server = 'by_' . $option;
	server($server, "host 'localhost', sslmode 'require', $option '$dir/file$option'" . ($option eq 'sslkey' ? ", sslcert '$dir/cert.pem'" : ''));
	unlink "$dir/file$option";
	mkfifo("$dir/file$option", 0600) or BAIL_OUT("mkfifo: $!");
	value($bank1, "SELECT dtx_notify('$server', '$option', '{}', '{1h}')");
	like(last_error($server), qr/option "$option" names a file that is not a regular one/, "$option: nor when it has become one");
	$r = session($bank1)->run("SET dtx.connect_timeout = '20s'; SELECT dtx_ping('$server')");
	like($r->{err}, qr/option "$option" names a file that is not a regular one/, "$option: in a session");
}
mkdir "$dir/crl";
mkfifo("$dir/crl/0123abcd.r0", 0666) or BAIL_OUT("mkfifo: $!");
server('by_sslcrldir', "host 'localhost', sslmode 'require', sslrootcert '$dir/cert.pem', sslcrldir '$dir/crl'");
value($bank1, q{SELECT dtx_notify('by_sslcrldir', 'sslcrldir', '{}', '{1h}')});
like(last_error('by_sslcrldir'), qr/option "sslcrldir" names a file that is not a regular one/, 'sslcrldir: none in a directory');
worker_is_well('files');

# --- names

my $ping = sub { session($bank1)->run("SET dtx.connect_timeout = '30s'; SELECT node FROM dtx_ping('$_[0]')") };
server('by_name', "host 'localhost', sslmode 'verify-full', sslrootcert '$dir/cert.pem'");
like($ping->('by_name')->{out}, qr/^bank2\./, 'a name is looked up, and the certificate is of that name');
server('by_other_name', "host 'private.test', sslmode 'verify-full', sslrootcert '$dir/cert.pem'");
like($ping->('by_other_name')->{err}, qr/does not match host name "private\.test"/, 'or is not');
server('by_no_name', q{host 'none.test'});
like($ping->('by_no_name')->{err}, qr/could not translate host name "none\.test" to address/, 'a name that there is not');
$bank1->safe_psql('bank1', <<"SQL");
CREATE SERVER by_names FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host 'none.test,127.0.0.1,private.test', port '1,2,$port', dbname 'bank2');
CREATE USER MAPPING FOR CURRENT_USER SERVER by_names OPTIONS (user '$user');
SQL
like($ping->('by_names')->{out}, qr/^bank2\./, 'several: each with its own port, those without an address are left out');
server('slow', q{host 'slow.test'});
my $session = session($bank1);
$session->must(q{SET dtx.connect_timeout = '200ms'});
my $r = $session->run(q{SELECT dtx_ping('slow')});
is($r->{state}, 'DX006', 'a name that takes its time: dtx.connect_timeout counts');
$session->must(q{SET dtx.connect_timeout = '50s'}, q{SET statement_timeout = '200ms'});
$r = $session->run(q{SELECT dtx_ping('slow')});
is($r->{state}, '57014', 'and a session can be canceled');
# subscriptions, notifications, branches: none of them waits in the worker
$bank2->safe_psql('bank2', q{CREATE FUNCTION take(payload jsonb) RETURNS void LANGUAGE sql AS ''});
value($bank1, q{SELECT dtx_subscribe('slow', 'slow', 'take')});
value($bank1, q{SELECT dtx_publish('slow', '{}')});
value($bank1, q{SELECT dtx_notify('slow', 'slow', '{}', '{1h}')});
worker_is_well('names');
value($bank1, q{SELECT dtx_unsubscribe(name) FROM dtx_subscriptions});

# --- what peers say

$bank2->safe_psql('bank2', <<'SQL');
CREATE FUNCTION say(what text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING '%', what; RETURN 'said'; END $$;
CREATE FUNCTION raise(what text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '%', what; END $$;
CREATE FUNCTION take_and_raise(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM say(payload ->> 'x'); PERFORM raise(payload ->> 'x'); END $$;
SQL
my $forged = q{E'well\n2026-01-01 00:00:00 UTC [1] LOG:  forged\r\x1b[2J'};
my $mark = log_mark($bank1);
is(value($bank1, "SELECT x FROM dtx_query('bank2', 'SELECT say(\$1)', $forged) AS t(x text)"), 'said', 'a notice');
$r = session($bank1)->run("SELECT x FROM dtx_query('bank2', 'SELECT raise(\$1)', $forged) AS t(x text)");
like($r->{err}, qr/well\n.*forged\\x0d\\x1b\[2J/, 'an error: control characters are shown as such');
value($bank1, q{SELECT dtx_subscribe('loud', 'bank2', 'take_and_raise', max_attempts => 1)});
value($bank1, "SELECT dtx_publish('loud', jsonb_build_object('x', $forged))");
ok(wait_for_value($bank1, 'SELECT count(*) FROM dtx_dead_letters', 1), 'a message that a handler does not take');
is(value($bank1, 'SELECT last_error FROM dtx_dead_letters'), 'P0001: well 2026-01-01 00:00:00 UTC [1] LOG:  forged\x0d\x1b[2J', 'its error is one line');
value($bank1, q{SELECT dtx_discard(array_agg(id)) FROM dtx_dead_letters});
value($bank1, q{SELECT dtx_unsubscribe(name) FROM dtx_subscriptions});
unlike(log_since($bank1, $mark), qr/^2026-01-01 00:00:00 UTC \[1\]/m, 'nothing of it is a line of the log');

# --- how much they say

$session = session($bank1);
$session->must(q{SET dtx.max_answer_size = '2MB'});
is($session->run(q{SELECT length(x) FROM dtx_query('bank2', 'SELECT repeat(''x'', 1000000)') AS t(x text)})->{out}, '1000000', 'an answer that is not too large');
foreach my $sql ('SELECT repeat(\'\'x\'\', 100000000)', 'SELECT repeat(\'\'x\'\', 1000) FROM generate_series(1, 100000)', 'SELECT raise(repeat(\'\'x\'\', 100000000))')
{
	is($session->run("SELECT length(x) FROM dtx_query('bank2', '$sql') AS t(x text)")->{state}, '54000', 'one that is');
}
is($session->run(q{SELECT x FROM dtx_query('bank2', 'SELECT ''right''') AS t(x text)})->{out}, 'right', 'the next call gets its answer');
$r = session($bank1)->run(q{SELECT x FROM dtx_query('bank2', 'SELECT raise(repeat(''x'', 10000000))') AS t(x text)});
cmp_ok(length $r->{err}, '<', 100_000, 'an error is cut');

is_settled($total, 'in the end', $bank1, $bank2);
done_testing();
