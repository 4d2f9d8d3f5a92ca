-- In which nations do customers send back the most, in money and as a share of what they bought?
select
    n_name as nation,
    sum(l_extendedprice * (1 - l_discount)) filter (where l_returnflag = 'R') as returned,
    round(
        100 * sum(l_extendedprice * (1 - l_discount)) filter (where l_returnflag = 'R')
        / sum(l_extendedprice * (1 - l_discount)), 3
    ) as returned_percent
from lineitem
join orders on o_orderkey = l_orderkey
join customer on c_custkey = o_custkey
join nation on n_nationkey = c_nationkey
group by n_name
order by returned desc, nation;
