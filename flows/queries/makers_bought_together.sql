-- Which two manufacturers' parts are ordered together more often than chance would have it?
with lines as (
    select l_orderkey, p_mfgr
    from lineitem
    join part on p_partkey = l_partkey
    group by l_orderkey, p_mfgr
), alone as (
    select p_mfgr, count(*) as orders
    from lines
    group by p_mfgr
), together as (
    select a.p_mfgr as one, b.p_mfgr as other, count(*) as orders
    from lines as a
    join lines as b on b.l_orderkey = a.l_orderkey and a.p_mfgr < b.p_mfgr
    group by a.p_mfgr, b.p_mfgr
)
select
    one,
    other,
    together.orders,
    round(1.0 * together.orders * (select count(*) from orders) / (first.orders * second.orders), 4) as lift
from together
join alone as first on first.p_mfgr = one
join alone as second on second.p_mfgr = other
order by lift desc, one, other;
