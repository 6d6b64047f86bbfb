
=pod

=head1 NAME

DtxTest::Modes - three banks, actions of TCC, and what no mode may leave behind

=cut

package DtxTest::Modes;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

our @EXPORT = qw(
  three_banks
  define_actions
  set_deadline
  nothing_left
  is_all_over
);

# bank1, bank2 and bank3, each of which knows the others. Options are new_bank's.
sub three_banks
{
	my (%options) = @_;
	my $conf = ($options{conf} // '') . <<'CONF';
max_prepared_transactions = 40
dtx.recovery_interval = '300ms'
CONF
	my @banks = map {
		new_bank("bank$_", %options, conf => $conf,
			(defined $options{label} ? (label => "bank${_}_$options{label}") : ()))
	} 1 .. 3;
	foreach my $bank (@banks)
	{
		define_actions($bank);
		make_peer($bank, $_) foreach grep { $_ != $bank } @banks;
	}
	return @banks;
}

# What TCC is about: debit puts an amount on hold, credit only announces it.
# forward credits, and debits nobody: its try goes on to another bank. Each call
# is noted, and none may be noted twice.
sub define_actions
{
	my ($bank) = @_;
	$bank->safe_psql($bank->{bank}, <<'SQL');
CREATE TABLE on_hold (account text NOT NULL, amount numeric NOT NULL);
CREATE TABLE tcc_call (what text NOT NULL);
CREATE FUNCTION debit_try(account text, amount numeric) RETURNS void BEGIN ATOMIC
    UPDATE account_info SET account_balance = account_balance - amount WHERE account_no = account;
    INSERT INTO on_hold VALUES (account, amount);
END;
CREATE FUNCTION debit_confirm(account text, amount numeric) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM on_hold WHERE ctid = (SELECT h.ctid FROM on_hold h
        WHERE h.account = debit_confirm.account AND h.amount = debit_confirm.amount LIMIT 1 FOR UPDATE SKIP LOCKED);
    IF NOT FOUND THEN RAISE EXCEPTION 'nothing is on hold'; END IF;
END $$;
CREATE FUNCTION debit_cancel(account text, amount numeric) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM debit_confirm(account, amount);
    UPDATE account_info SET account_balance = account_balance + amount WHERE account_no = account;
END $$;
CREATE FUNCTION credit_try(account text, amount numeric) RETURNS void BEGIN ATOMIC
    INSERT INTO tcc_call VALUES ('try');
END;
CREATE FUNCTION credit_confirm(account text, amount numeric) RETURNS void BEGIN ATOMIC
    UPDATE account_info SET account_balance = account_balance + amount WHERE account_no = account;
    INSERT INTO tcc_call VALUES ('end');
END;
CREATE FUNCTION credit_cancel(account text, amount numeric) RETURNS void BEGIN ATOMIC
    INSERT INTO tcc_call VALUES ('end');
END;
CREATE FUNCTION forward_try(account text, amount numeric, server text, next jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM credit_try(account, amount);
    PERFORM dtx_try(server, 'credit', next);
END $$;
CREATE FUNCTION forward_confirm(account text, amount numeric, server text, next jsonb) RETURNS void BEGIN ATOMIC
    SELECT credit_confirm(account, amount);
END;
CREATE FUNCTION forward_cancel(account text, amount numeric, server text, next jsonb) RETURNS void BEGIN ATOMIC
    SELECT credit_cancel(account, amount);
END;
SELECT dtx_tcc_define('debit', 'debit_try(text,numeric)',
    'debit_confirm(text,numeric)', 'debit_cancel(text,numeric)');
SELECT dtx_tcc_define('credit', 'credit_try(text,numeric)',
    'credit_confirm(text,numeric)', 'credit_cancel(text,numeric)');
SELECT dtx_tcc_define('forward', 'forward_try(text,numeric,text,jsonb)',
    'forward_confirm(text,numeric,text,jsonb)', 'forward_cancel(text,numeric,text,jsonb)');
SQL
	return;
}

# Let the time of a transaction that services share be over now.
sub set_deadline
{
	my ($bank, $xid) = @_;
	value($bank, "UPDATE dtx.global SET deadline = now() WHERE xid = '$xid'");
	value($bank, "SELECT dtx_retry('$xid')");
	return;
}

my $left = <<'SQL';
SELECT concat_ws('; ',
    (SELECT 'prepared: ' || string_agg(gid, ', ') FROM pg_prepared_xacts WHERE database = current_database()),
    (SELECT 'global: ' || string_agg(xid || ' ' || state::text, ', ') FROM dtx.global),
    (SELECT 'neither confirmed nor cancelled: ' || string_agg(t.gid, ', ') FROM dtx.try_log t
     WHERE NOT EXISTS (SELECT FROM dtx.confirm_log l WHERE l.branch = t.branch)
       AND NOT EXISTS (SELECT FROM dtx.cancel_log l WHERE l.branch = t.branch)),
    (SELECT 'confirmed and cancelled: ' || string_agg(gid, ', ') FROM dtx.confirm_log JOIN dtx.cancel_log USING (branch, gid)),
    (SELECT 'on hold: ' || string_agg(account || ' ' || amount, ', ') FROM on_hold),
    (SELECT 'tries and ends: ' || string_agg(what, ' ') FROM tcc_call
     HAVING count(*) FILTER (WHERE what = 'try') <> count(*) FILTER (WHERE what = 'end')),
    (SELECT 'branches: ' || string_agg(concat_ws(' ', gid, side, state, last_error), ', ') FROM dtx_branches),
    (SELECT 'locks: ' || string_agg(gid, ', ') FROM dtx_locks))
SQL

# What a mode has left behind at a bank, or an empty string.
sub left_at
{
	my ($bank) = @_;
	my $rest = DtxTest::leftovers($bank);
	$rest .= ($rest eq '' ? '' : '; ') . (value($bank, $left) // 'no answer') if $rest ne 'no answer';
	return $rest if $rest ne '';
	my $frozen = value($bank, q{SELECT to_regclass('dtx_frozen') IS NOT NULL}) // 'f';
	return '' if $frozen eq 'f';
	$frozen = value($bank, 'SELECT count(*) FROM dtx_frozen') // 'no answer';
	return $frozen eq '0' ? '' : "frozen amounts: $frozen";
}

# Wait until nothing is left of any global transaction anywhere.
sub nothing_left
{
	my @banks = @_;
	my @rest;
	my $ok = wait_until(
		sub {
			@rest = map { my $l = left_at($_); $l eq '' ? () : "$_->{bank}: $l" } @banks;
			return @rest == 0;
		},
		'nothing is left');
	diag join "\n", @rest unless $ok;
	return $ok;
}

# The check that ends a scenario.
sub is_all_over
{
	my ($total, $what, @banks) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(nothing_left(@banks), "$what: nothing is left");
	is(money(@banks), $total, "$what: the sum of money is what it was");
	return;
}

1;
