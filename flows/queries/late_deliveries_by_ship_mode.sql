-- Which way of shipping delivers late most often, and by how many days?
select
    l_shipmode as ship_mode,
    count(*) as deliveries,
    count(*) filter (where l_receiptdate > l_commitdate) as late,
    round(100.0 * count(*) filter (where l_receiptdate > l_commitdate) / count(*), 2) as late_percent,
    round(avg(l_receiptdate - l_commitdate) filter (where l_receiptdate > l_commitdate), 2) as mean_days_late
from lineitem
group by l_shipmode
order by late_percent desc, ship_mode;
