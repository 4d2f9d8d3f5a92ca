-- What was left of each brand's revenue in 1997 once the suppliers were paid?
select
    p_brand as brand,
    sum(l_extendedprice * (1 - l_discount)) as revenue,
    sum(ps_supplycost * l_quantity) as cost,
    sum(l_extendedprice * (1 - l_discount) - ps_supplycost * l_quantity) as margin
from lineitem
join partsupp on ps_partkey = l_partkey and ps_suppkey = l_suppkey
join part on p_partkey = l_partkey
where l_shipdate >= date '1997-01-01' and l_shipdate < date '1998-01-01'
group by p_brand
order by margin desc, brand;
